"""The reasons that a job can have: those of the failure classes with which a job can end."""

from __future__ import annotations

from finetune_api.failures import FAILURE_CLASSES

FAILURES = {one.reason for one in FAILURE_CLASSES if one.alert}
"""What a job can be Failed with."""
