"""The Kubernetes API: client, cache, watches, queue, leader election and the reconcile pass."""
