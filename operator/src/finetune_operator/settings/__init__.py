"""The administrator's settings."""
