"""The operator's metrics, health endpoint and logs."""
