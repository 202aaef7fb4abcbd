"""Names, labels and annotations of the children of a job and of an experiment."""

from __future__ import annotations

from finetune_api.values.api_model import GROUP

MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGER = "finetune-operator"
JOB_LABEL = f"{GROUP}/job"
UID_LABEL = f"{GROUP}/job-uid"
ATTEMPT_LABEL = f"{GROUP}/attempt"
PREFLIGHT_LABEL = f"{GROUP}/preflight"
NUMBER_LABELS = (ATTEMPT_LABEL, PREFLIGHT_LABEL)
"""Every Job and every pod of a FineTuneJob has one of these labels. Its value is a number."""
HASH_ANNOTATION = f"{GROUP}/hash"
INDEX_ANNOTATION = "batch.kubernetes.io/job-completion-index"
EXPERIMENT_LABEL = f"{GROUP}/experiment"
VARIANT_LABEL = f"{GROUP}/variant"
HELD_ANNOTATION = f"{GROUP}/held-by-experiment"
"""A job that its experiment has suspended, and will start or resume. Without it, somebody else suspended the job."""
EXPERIMENT_UID_LABEL = f"{GROUP}/experiment-uid"
REPORT_LABEL = f"{GROUP}/report"
"""The Job and the pods that write the report of an experiment have this label. Its value is a number, from 1."""
OUR_LABELS = (MANAGED_BY, JOB_LABEL, UID_LABEL, *NUMBER_LABELS, EXPERIMENT_LABEL, EXPERIMENT_UID_LABEL, REPORT_LABEL)
OUR_ANNOTATIONS = (HASH_ANNOTATION, INDEX_ANNOTATION)
KUEUE_LABEL = "kueue.x-k8s.io/queue-name"
API_VERSIONS = {"ConfigMap": "v1", "Service": "v1", "NetworkPolicy": "networking.k8s.io/v1"}
"""The kinds of children that the operator applies with server-side apply."""
SELECTOR = f"{MANAGED_BY}={MANAGER}"


def attempt_name(job: str, number: int) -> str:
    """Name of an attempt's Job and of its rendezvous Service."""
    return f"{job}-{number}"


def run_name(job: str, uid: str, number: int) -> str:
    """Name of the ConfigMap with an attempt's run.json.

    The uid is part of the name: while a pod of an earlier job of the same name still ends, the kubelet would give a new
    pod the earlier immutable ConfigMap.
    """
    return f"{job}-{number}-{uid[:8]}"


def limits_name(job: str, uid: str, number: int) -> str:
    """Name of the ConfigMap with an attempt's limits.json."""
    return f"{run_name(job, uid, number)}-limits"


def policy_name(job: str, uid: str) -> str:
    """Name of a job's NetworkPolicy. The uid is part of it, so that no job can name another policy."""
    return f"{job}-{uid[:8]}"


def preflight_name(job: str, generation: int, failures: int = 0) -> str:
    """Name of the Job that checks a generation of a spec.

    The number of failures is part of the name: if the node of a check does not answer, its Job exists for long, and the
    next check needs another name. No attempt has such a name, because the name of an attempt ends with a number. No
    other check has it, because the part before the last dash contains no dash.
    """
    return f"{job}-{generation}{f'r{failures}' if failures else ''}-preflight"


def earlier_preflight_name(job: str, generation: int, failures: int) -> str:
    """Name of a check in releases up to 2026-11-26. A check of this name that runs is not created again.

    It was ambiguous: the first attempt of job `x-preflight` had the same name as the first check of job `x`.
    """
    return f"{job}-preflight-{generation}" + (f"-{failures + 1}" if failures else "")


def preflight_run_name(check: str, uid: str) -> str:
    """Name of the ConfigMap with a check's run.json; the uid is part of it as for an attempt."""
    return f"{check}-{uid[:8]}"


def labels(job: str, uid: str, number: int | None = None) -> dict[str, str]:
    """The labels of a job's child; `number` is that of its attempt, None for a child of no attempt."""
    of_job = {MANAGED_BY: MANAGER, JOB_LABEL: job, UID_LABEL: uid}
    return of_job if number is None else {**of_job, ATTEMPT_LABEL: str(number)}


def report_name(experiment: str, results: str, failures: int) -> str:
    """Name of the Job that writes the report of an experiment.

    Args:
        experiment: name of the experiment.
        results: digest of the results that the report is about.
        failures: how many Jobs have failed before it.
    """
    return f"{experiment}-{results[:8]}{f'r{failures}' if failures else ''}-report"


def report_config_name(report: str, uid: str) -> str:
    """Name of the ConfigMap that a report is made from; the uid of the experiment is part of it as for an attempt."""
    return f"{report}-{uid[:8]}"


def experiment_labels(experiment: str, uid: str) -> dict[str, str]:
    """The labels of an experiment's own children; its FineTuneJobs have others."""
    return {MANAGED_BY: MANAGER, EXPERIMENT_LABEL: experiment, EXPERIMENT_UID_LABEL: uid}
