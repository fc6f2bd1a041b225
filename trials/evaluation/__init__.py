"""What a model is worth on the eval rows."""
