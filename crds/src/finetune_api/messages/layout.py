"""Names below a job's output: `<uri>/<namespace>/<name>/<uid>/…`."""

from __future__ import annotations

MANIFEST = "manifest.json"
CHECKPOINTS = "checkpoints"
CHECKPOINT_MANIFEST = "checkpoint.json"
BASELINE = "baseline.json"
RESULTS = "results"
# What was trained: an adapter beside frozen weights, those parameters alone that changed in place, or a whole model.
ADAPTER = "adapter"
CHANGED = "changed"
MODEL = "model"
MERGED = "merged"
REPORT = "report.html"
METRICS = "metrics.jsonl"
ROW_SCORES = "row-scores.json"
ANSWERS = "answers.json"
PROBE = "probe"
# Answers of reference models, below <uri>/<namespace>: all jobs with the same questions share them.
REFERENCE_ANSWERS = "reference-answers"
# The status of an experiment that ran without a cluster, below <uri>/<namespace>/<experiment>.
EXPERIMENT = "experiment.json"

RUN_FILE = "run.json"
LIMITS_FILE = "limits.json"


def job_prefix(namespace: str, name: str, uid: str) -> str:
    """The folder of one job."""
    return f"{namespace}/{name}/{uid}"


def checkpoint_prefix(attempt: int, step: int) -> str:
    """The folder of one checkpoint, below the job's; steps sort as text."""
    return f"{CHECKPOINTS}/{attempt}/step-{step:08d}"


def results_prefix(attempt: int) -> str:
    """The folder of one attempt's results, below the job's."""
    return f"{RESULTS}/{attempt}"
