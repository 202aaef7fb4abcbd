"""The objects that the operator creates, as plain data."""
