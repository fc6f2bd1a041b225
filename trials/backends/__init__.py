"""The ways to hold and train a base model; `trials.models.frozen_base.load` picks one."""
