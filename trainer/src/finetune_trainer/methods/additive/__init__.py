"""Additive methods."""
