"""Partial fine-tuning."""
