"""Comparison with a reference model behind an OpenAI-compatible endpoint."""
