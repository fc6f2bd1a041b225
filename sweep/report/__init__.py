"""report.html: one page that needs nothing else."""
