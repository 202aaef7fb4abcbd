"""What operator and trainer send each other, and what a trainer writes into the output."""

from finetune_api.messages.field_types import Date, Sentence, Timestamp
from finetune_api.messages.local_end import LocalEnd
from finetune_api.messages.manifest import CheckpointManifest, Manifest, PublishedFile, RunFigures
from finetune_api.messages.preflight import JobEstimate, PreflightResult, PreflightVerdict
from finetune_api.messages.progress import ProgressMessage, Stage
from finetune_api.messages.result import RESULT_BYTES, Result
from finetune_api.messages.row_scores import (
    MOST_FIELDS,
    MOST_ROWS,
    NO_CLASS,
    OTHER_CLASS,
    FieldClasses,
    RowScores,
)
from finetune_api.messages.run_config import Accelerator, Limits, RunConfig
from finetune_api.messages.sample_answers import AnsweredQuestion, GivenAnswer, SampleAnswers
from finetune_api.reasons import Outcome

__all__ = [
    "MOST_FIELDS",
    "MOST_ROWS",
    "NO_CLASS",
    "OTHER_CLASS",
    "RESULT_BYTES",
    "Accelerator",
    "AnsweredQuestion",
    "CheckpointManifest",
    "Date",
    "FieldClasses",
    "GivenAnswer",
    "JobEstimate",
    "Limits",
    "LocalEnd",
    "Manifest",
    "Outcome",
    "PreflightResult",
    "PreflightVerdict",
    "ProgressMessage",
    "PublishedFile",
    "Result",
    "RowScores",
    "RunConfig",
    "RunFigures",
    "SampleAnswers",
    "Sentence",
    "Stage",
    "Timestamp",
]
