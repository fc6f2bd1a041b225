"""What a person does to a sweep that is there: stop, prune, clean."""
