"""From token rows to steps, micro-batches and tensors."""
