"""Jobs on a SLURM cluster. Knows jobs, not stages."""
