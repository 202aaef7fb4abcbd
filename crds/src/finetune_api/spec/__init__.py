"""The models of a `FineTuneJob`'s spec, one section a file."""
