"""The machine: accelerator, host and memory."""
