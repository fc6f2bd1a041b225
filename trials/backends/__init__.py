"""The ways to hold and train a base model; `trials.base_model.load` picks one."""
