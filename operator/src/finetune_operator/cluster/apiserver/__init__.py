"""Talking to the apiserver: requests, and what it sends, decoded and judged."""
