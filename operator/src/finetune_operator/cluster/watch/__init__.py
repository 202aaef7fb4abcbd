"""How the cache learns of changes: kopf's watches, and a sweep that lists everything."""
