"""Files of rows, turned into masked tokens."""
