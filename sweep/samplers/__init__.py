"""Which point is tried next."""
