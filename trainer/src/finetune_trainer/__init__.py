"""Fine-tunes a language model as a `FineTuneJob` says."""
