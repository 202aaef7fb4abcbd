"""Reading a `FineTuneJob` from YAML, with every error at once."""
