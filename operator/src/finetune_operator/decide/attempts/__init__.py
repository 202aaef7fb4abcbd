"""Attempts: their records in the status, what their ends mean, and when the next one may start. Pure."""
