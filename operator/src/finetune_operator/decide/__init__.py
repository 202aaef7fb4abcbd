"""Decisions: from an observation to a plan. Pure: no client, no clock."""
