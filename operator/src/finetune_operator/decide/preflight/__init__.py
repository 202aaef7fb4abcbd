"""The preflight check: when it is created, what its end means, and whose turn comes next. Pure."""
