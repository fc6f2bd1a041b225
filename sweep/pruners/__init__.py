"""When a trial is stopped early: by its own curve, or beside its peers."""
