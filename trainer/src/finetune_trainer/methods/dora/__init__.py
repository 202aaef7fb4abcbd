"""DoRA and QDoRA."""
