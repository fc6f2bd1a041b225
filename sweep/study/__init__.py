"""The Optuna study: ask, report, tell."""
