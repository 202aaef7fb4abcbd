"""One attempt: load, prepare, evaluate, train, evaluate, export, publish."""
