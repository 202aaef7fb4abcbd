"""One pass over one experiment: observe, plan, apply. And the worker that makes the passes."""
