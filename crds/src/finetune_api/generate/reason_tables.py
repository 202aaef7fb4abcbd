"""The tables of reasons and exit codes in the docs, and the alerts about failed jobs."""

from __future__ import annotations

from collections.abc import Iterable

from finetune_api.failures import EXPLANATIONS, FAILURE_CLASSES, AlertGroup, Delay, FailureClass, Retry
from finetune_api.failures.explanations import DocsSection

_RETRIES = {
    Retry.NEVER: "no",
    Retry.FREE: "yes, free",
    Retry.COUNTED: "up to `backoffLimit`",
    Retry.SMALLER_PLAN: "once, with the smallest memory plan",
    Retry.ELSEWHERE: "yes, on another node",
}
_DELAYS = {
    Delay.NONE: "at once",
    Delay.DOUBLING: "after 10 s, doubled up to 10 min",
    Delay.DOUBLING_TO_AN_HOUR: "after 10 s, doubled up to 1 h",
}


def reason_tables() -> str:
    """The sections of docs/reference/conditions.md that list every reason."""
    progress = "\n".join(
        f"## {section}\n" + _table(("reason", "what it means", "what to do"),
                                   ((f"`{one.reason}`", one.meaning, one.action)
                                    for one in EXPLANATIONS if one.section is section))
        for section in DocsSection)
    failed = [one for one in FAILURE_CLASSES if one.alert]
    attempts = [one for one in FAILURE_CLASSES if not one.alert]
    return (f"{progress}\n## Failure\n{_BEFORE_FAILURES}\n{_failures(failed)}\n"
            f"## Only in `status.attempts`\nNo job fails for these.\n\n{_failures(attempts)}")


_BEFORE_FAILURES = """\
Checkpoints are kept in every case. A failed job never runs again: apply the corrected job under another name, or delete
this one first. With `runPolicy.resumeFrom: <name of this job>` the new job resumes from its newest checkpoint, if only
compute, budget and runPolicy changed. A retry is an attempt that follows by itself.
"""


def _failures(classes: Iterable[FailureClass]) -> str:
    return _table(("reason", "exit code", "cause", "cure", "retried"), (
        (f"`{one.reason}`", "" if one.exit_code is None else str(one.exit_code), one.cause, one.cure, _retried(one))
        for one in classes))


def _retried(one: FailureClass) -> str:
    if one.retry is Retry.NEVER:
        return _RETRIES[Retry.NEVER]
    if one.first_start is Retry.NEVER:
        return f"no, if no trainer of the job has run yet. Else {_RETRIES[one.retry]}, {_DELAYS[one.delay]}"
    return f"{_RETRIES[one.retry]}, {_DELAYS[one.delay]}"


def exit_code_table() -> str:
    """The exit codes in docs/reference/output.md."""
    coded = sorted(((one.exit_code, one) for one in FAILURE_CLASSES if one.exit_code), key=lambda pair: pair[0])
    return _table(("code", "reason", "meaning", "what to do"), (
        ("0", "`Succeeded`", "A result is published, also when a limit ended training or the quality gate was missed. "
         "The message says so. In a cluster a missed gate fails the job with `QualityGate`.", ""),
        *((str(code), f"`{one.reason}`", one.cause, one.cure) for code, one in coded)))


def alert_reasons(group: AlertGroup) -> str:
    """The reasons of an alert as Prometheus' regular expression."""
    return "|".join(one.reason for one in FAILURE_CLASSES if one.alert is group)


def failed_job_alerts() -> str:
    """The alerts about failed jobs in the chart's alerts.yaml, one per group."""
    return "".join(_ALERT.format(name=group.value[0], label=group.value[1], reasons=alert_reasons(group),
                                 **_ALERT_WORDS[group]) for group in AlertGroup)


_ALERT = """\
      - alert: {name}
        expr: >-
          max by (namespace, job, uid, reason) (finetune_job_info{{phase="Failed",
          reason=~"{reasons}"}})
          and on (namespace, job, uid)
          max by (namespace, job, uid) (finetune_job_completion_timestamp_seconds) > time() - 3600
        labels: {{severity: {severity}, class: {label}}}
        annotations:
          summary: "{summary}"
          description: "{description}"
"""
_JOB = "{{ $labels.namespace }}/{{ $labels.job }}"
_REASON = "{{ $labels.reason }}"
_ALERT_WORDS = {
    AlertGroup.SPEC: {
        "severity": "info", "summary": f"{_JOB} failed: {_REASON}",
        "description": "Its owner can correct it: kubectl describe finetunejob -n {{ $labels.namespace }} "
                       "{{ $labels.job }}"},
    AlertGroup.MEMORY: {
        "severity": "info", "summary": f"{_JOB} did not fit: {_REASON}",
        "description": "The job's conditions name the field to change."},
    AlertGroup.LIMITS: {
        "severity": "warning", "summary": f"{_JOB} reached a limit: {_REASON}",
        "description": "Money was spent and nothing is published; the job's checkpoints are kept."},
    AlertGroup.PLATFORM: {
        "severity": "warning", "summary": f"{_JOB} failed for a fault outside the job: {_REASON}",
        "description": "The cause is in nodes, the registry or the trainer itself: kubectl describe finetunejob shows "
                       "it."},
}


def alert_table() -> str:
    """The reasons of each alert about failed jobs, in docs/reference/alerts.md."""
    return _table(("alert", "label `class`", "reasons"), (
        (f"`{group.value[0]}`", group.value[1],
         ", ".join(f"`{one.reason}`" for one in FAILURE_CLASSES if one.alert is group)) for group in AlertGroup))


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *(tuple(cell.replace("|", r"\|") for cell in row) for row in rows)]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines).replace("|  |", "| |")
