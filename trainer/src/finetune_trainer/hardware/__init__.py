"""The machine: its accelerator, processors and memory."""
