"""Which micro-batch fits."""
