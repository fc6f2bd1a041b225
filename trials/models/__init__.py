"""The frozen base model: what it is and where it comes from."""
