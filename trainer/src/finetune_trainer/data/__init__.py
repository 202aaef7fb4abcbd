"""From a data set to token rows: read, render, check, tokenise, and lay out in steps."""
