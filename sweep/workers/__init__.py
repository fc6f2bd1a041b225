"""Warm workers on Ray, one for each slot."""
