"""What a person watches while a sweep runs."""
