"""A run from its configuration to its exit code: an attempt, a preflight, or a job on this machine."""
