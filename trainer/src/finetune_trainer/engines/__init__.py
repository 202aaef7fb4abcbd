"""Engines other than our own; their packages are imported only by jobs that ask for them."""
