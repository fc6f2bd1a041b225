"""`sweep confirm`: the best trials, trained again with other seeds."""
