"""SPACE.yaml: read, checked whole, turned into a `Space`."""
