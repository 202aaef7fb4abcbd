"""What a finished run says of itself: a table, a page, and a model card, all from the same facts."""
