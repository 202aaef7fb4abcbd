"""The contract of the project: the API that users write, the messages between programs, and the published formats."""

from finetune_api.exit_codes import ExitCode
from finetune_api.job import FineTuneJob
from finetune_api.reading.loading import FieldError, InvalidJob, cluster_errors, load_job, parse_job, parse_job_text
from finetune_api.resolve import resolve_defaults, spec_hash
from finetune_api.spec.job import FineTuneJobSpec

__all__ = [
    "ExitCode",
    "FieldError",
    "FineTuneJob",
    "FineTuneJobSpec",
    "InvalidJob",
    "cluster_errors",
    "load_job",
    "parse_job",
    "parse_job_text",
    "resolve_defaults",
    "spec_hash",
]
