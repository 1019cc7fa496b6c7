"""A run on a cluster: site files, submission, the job itself, and what became of jobs."""
