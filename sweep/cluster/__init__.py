"""A sweep on somebody's Ray cluster, from outside: submit, follow, fetch, stop."""
