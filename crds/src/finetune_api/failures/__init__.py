"""Why a job is where it is: one entry per failure class, and an explanation of every other reason.

`failure_classes` and `explanations` are the source of the enums `Reason`, `Outcome` and `ExitCode`, of the tables in
docs/reference/conditions.md and docs/reference/output.md, and of the alert groups. `make generate` writes those.
"""

from finetune_api.failures.explanations import EXPLANATIONS, Explanation
from finetune_api.failures.failure_class import AlertGroup, Delay, FailureClass, Retry
from finetune_api.failures.failure_classes import FAILURE_CLASSES
from finetune_api.failures.lookup import exit_code_summary, failure_class, failure_class_of_exit_code

__all__ = [
    "EXPLANATIONS",
    "FAILURE_CLASSES",
    "AlertGroup",
    "Delay",
    "Explanation",
    "FailureClass",
    "Retry",
    "exit_code_summary",
    "failure_class",
    "failure_class_of_exit_code",
]
