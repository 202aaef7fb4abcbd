"""The documentation of a field, found by its path."""
