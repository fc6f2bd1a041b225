"""Rows in normal form → tokens: chat templates, what is learnt, and what is kept of it."""
