"""The stages of a job's life, one module each: what to do in this stage. Pure."""
