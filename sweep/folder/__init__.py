"""A sweep's folder: what lies where, who holds it, what is asked of it, room on the disk."""
