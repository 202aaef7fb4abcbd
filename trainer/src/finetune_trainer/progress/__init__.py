"""Progress of a run: state, limits, terminal, metrics log and HTTP server."""
