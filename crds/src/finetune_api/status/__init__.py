"""What the operator reports of a job."""

from finetune_api.status.adapter import PublishedAdapter
from finetune_api.status.attempts import LAST_NUMBER, Attempt, Retries
from finetune_api.status.conditions import Condition, ConditionStatus, ConditionType, Phase
from finetune_api.status.cost import Cost, Memory
from finetune_api.status.evaluation import EvaluationScores, Scores
from finetune_api.status.field_types import Count, Percent, Text, Time, usable_time
from finetune_api.status.job_status import UNSEEN_STATUS, FineTuneJobStatus
from finetune_api.status.preflight import AcceleratorChoice, PreflightStatus
from finetune_api.status.progress import Progress, Rollouts

__all__ = [
    "LAST_NUMBER",
    "UNSEEN_STATUS",
    "AcceleratorChoice",
    "Attempt",
    "Condition",
    "ConditionStatus",
    "ConditionType",
    "Cost",
    "Count",
    "EvaluationScores",
    "FineTuneJobStatus",
    "Memory",
    "Percent",
    "Phase",
    "PreflightStatus",
    "Progress",
    "PublishedAdapter",
    "Retries",
    "Rollouts",
    "Scores",
    "Text",
    "Time",
    "usable_time",
]
