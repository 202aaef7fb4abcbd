"""A model's files: where they are, what they hold, and whether they are complete."""
