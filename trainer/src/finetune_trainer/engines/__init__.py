"""Engines other than our own, each imported only by jobs that ask for it."""
