"""The report: what happened in a run, as one page that needs neither network nor scripts."""
