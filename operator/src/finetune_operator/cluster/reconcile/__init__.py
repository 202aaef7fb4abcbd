"""One pass over one job: observe, plan, apply. And the workers that make the passes."""
