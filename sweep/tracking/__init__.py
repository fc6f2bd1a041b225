"""MLflow: a parent run for the sweep, a child run for each trial."""
