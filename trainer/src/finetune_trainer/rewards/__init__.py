"""Rewards: how a response is scored."""
