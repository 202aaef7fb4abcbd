"""Names, labels and annotations of everything that belongs to a job."""

from __future__ import annotations

from finetune_api.values.api_model import GROUP

MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGER = "finetune-operator"
JOB_LABEL = f"{GROUP}/job"
UID_LABEL = f"{GROUP}/job-uid"
ATTEMPT_LABEL = f"{GROUP}/attempt"
PREFLIGHT_LABEL = f"{GROUP}/preflight"
NUMBER_LABELS = (ATTEMPT_LABEL, PREFLIGHT_LABEL)
"""Every Job and pod of ours has one of them, and it is a number."""
HASH_ANNOTATION = f"{GROUP}/hash"
INDEX_ANNOTATION = "batch.kubernetes.io/job-completion-index"
OUR_LABELS = (MANAGED_BY, JOB_LABEL, UID_LABEL, *NUMBER_LABELS)
OUR_ANNOTATIONS = (HASH_ANNOTATION, INDEX_ANNOTATION)
KUEUE_LABEL = "kueue.x-k8s.io/queue-name"
API_VERSIONS = {"ConfigMap": "v1", "Service": "v1", "NetworkPolicy": "networking.k8s.io/v1"}
"""Kinds of the children that are applied, and may be put back."""
SELECTOR = f"{MANAGED_BY}={MANAGER}"


def attempt_name(job: str, number: int) -> str:
    """Name of an attempt's Job and of its rendezvous Service."""
    return f"{job}-{number}"


def run_name(job: str, uid: str, number: int) -> str:
    """Name of the ConfigMap with an attempt's run.json.

    It holds the job's uid: while a pod of an earlier job of that name still ends, the kubelet would give a new pod the
    earlier immutable ConfigMap of the same name.
    """
    return f"{job}-{number}-{uid[:8]}"


def limits_name(job: str, uid: str, number: int) -> str:
    """Name of the ConfigMap with an attempt's limits.json."""
    return f"{run_name(job, uid, number)}-limits"


def policy_name(job: str, uid: str) -> str:
    """Name of a job's NetworkPolicy. It holds the uid, so that nobody aims it at a policy of their choice."""
    return f"{job}-{uid[:8]}"


def preflight_name(job: str, generation: int, failures: int = 0) -> str:
    """Name of the Job that checks a generation of a spec; after failures another one, since that of a check whose node
    is silent stays taken.

    No attempt of any job has it, since theirs end with a number; and no other check, since the number before the last
    word has no dash in it.
    """
    return f"{job}-{generation}{f'r{failures}' if failures else ''}-preflight"


def earlier_preflight_name(job: str, generation: int, failures: int) -> str:
    """What releases up to 2026-11-26 called a check: one that runs is not made again. Job x-preflight's first attempt
    was called like job x's first check."""
    return f"{job}-preflight-{generation}" + (f"-{failures + 1}" if failures else "")


def preflight_run_name(check: str, uid: str) -> str:
    """Name of the ConfigMap with a check's run.json; it holds the job's uid as that of an attempt does."""
    return f"{check}-{uid[:8]}"


def labels(job: str, uid: str, number: int | None = None) -> dict[str, str]:
    """The labels of a job's child."""
    of_job = {MANAGED_BY: MANAGER, JOB_LABEL: job, UID_LABEL: uid}
    return of_job if number is None else {**of_job, ATTEMPT_LABEL: str(number)}
