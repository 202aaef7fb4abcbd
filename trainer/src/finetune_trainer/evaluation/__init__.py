"""Evaluating a model on held-out rows: loss, generated answers, and their scores."""
