"""The operator's own metrics, health endpoint and logs."""
