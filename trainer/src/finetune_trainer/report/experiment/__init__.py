"""How an experiment is shown: its page, and its table on a terminal."""
