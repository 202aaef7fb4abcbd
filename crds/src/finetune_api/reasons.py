"""Generated from failures/failure_classes.py and failures/explanations.py: the enums `Reason` and `Outcome`."""

from finetune_api.generated.reasons import Outcome, Reason

__all__ = ["Outcome", "Reason"]
