"""What a sweep has found, read from its folder."""
