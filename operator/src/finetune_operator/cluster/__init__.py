"""The operator at work in the cluster: requests, cache, watches, leader election, passes."""
