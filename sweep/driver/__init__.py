"""`sweep run`: prepare, start, keep every slot busy, record."""
