"""The ILLUME loop on a model: explain, judge, keep, tune, measure."""
