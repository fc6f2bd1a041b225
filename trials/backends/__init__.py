"""The ways to hold and train a base model; `trials.backends.loading.load` picks one."""
