"""The training run: its loop, its checkpoints, and what ends it early."""
