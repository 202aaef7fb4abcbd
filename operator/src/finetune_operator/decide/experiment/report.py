"""The report of an experiment whose jobs have all ended: the pod that writes it, and what its end means. Pure.

The scores of single rows are in the output, which only pods with the jobs' credentials can read. So a pod compares the
variants, and its termination message has the ranking. Whatever becomes of it, the experiment ends: without it, by the
scores in the jobs' status.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from finetune_api.exit_codes import ExitCode
from finetune_api.experiment.ranking import Ranking
from finetune_api.experiment.reading import Experiment
from finetune_api.experiment.reported import ReportedExperiment
from finetune_api.experiment.status import ExperimentRun, FineTuneExperimentStatus, ReportRecord
from finetune_api.experiment.summary import has_result
from finetune_api.failures import Retry
from finetune_api.reasons import Outcome, Reason
from finetune_api.values.printable import printable

from finetune_operator.decide.actions import Apply, Create, Delete, delete_job
from finetune_operator.decide.attempts.cpu_pod import cpu_node, wait_of_cpu_pod
from finetune_operator.decide.attempts.end_time import end_time_of_pods, waits_for_sidecars
from finetune_operator.decide.attempts.retry_delay import backoff
from finetune_operator.decide.attempts.verdict import judge_end
from finetune_operator.decide.attempts.waiting import POD_DELAY, verdict_if_start_fails
from finetune_operator.decide.experiment.actions import OwnedAction
from finetune_operator.manifests.child import digest_of
from finetune_operator.manifests.network_policy import report_policy
from finetune_operator.manifests.report_job import ReportRequest, report_config_map, report_job
from finetune_operator.names import API_VERSIONS, policy_name, report_config_name, report_name
from finetune_operator.observed.attempt import AttemptView
from finetune_operator.observed.experiment import ExperimentObservation, ExperimentView
from finetune_operator.settings import Settings

_WRITING = "a pod on a CPU compares the results row by row and writes the report"
_OF_AN_OTHER_RELEASE = ("its pod ended without naming a page. The trainer's image is of another release: ask an "
                        "administrator to set trainerImage in the operator's settings")
_LOST = "its pod is gone, and with it what it reported"
_TOO_LARGE = ("spec and status of the experiment have {size} bytes, and a ConfigMap takes {limit} for its pod. "
              "`finetune-trainer experiment-report` writes it from `kubectl get fte {name} -o json`")
_CONFIG_MAP_BYTES = 1024 * 1024
"""Most bytes of the data of a ConfigMap, with the name of its key."""
_TOO_LITTLE_MEMORY = ("its pod needed more host memory than it has. Ask an administrator to raise preflight.memory in "
                      "the operator's settings")
_TOO_SLOW = ("it was not written within preflight.timeout. Ask an administrator to raise preflight.timeout in the "
             "operator's settings")


@dataclass(frozen=True)
class EndedExperiment:
    """An experiment whose jobs have all ended.

    Attributes:
        observation: everything that is known about it.
        experiment: the experiment with its jobs.
        rows: of its jobs.
        status: what the status will be, but for the comparison.
        by_scores: the ranking by the scores in the jobs' status.
    """

    observation: ExperimentObservation
    experiment: Experiment
    rows: tuple[ExperimentRun, ...]
    status: FineTuneExperimentStatus
    by_scores: Ranking


@dataclass(frozen=True)
class ReportStep:
    """What to do about the report, and what is known by it.

    Attributes:
        record: of the status.
        ranking: the best that is known.
        location: of the page; None if there is none.
        waiting: what the experiment still waits for, in words; None if it is over.
        actions: what to create.
        deletions: what to delete, once the status is written.
        requeue_after: decide again after this time; None to wait for the next change.
    """

    record: ReportRecord
    ranking: Ranking
    location: str | None = None
    waiting: str | None = None
    actions: tuple[OwnedAction, ...] = ()
    deletions: tuple[Delete, ...] = ()
    requeue_after: timedelta | None = None

    @property
    def remark(self) -> str:
        """What the reader of the result must know of the report; empty if it is complete."""
        if self.waiting or not self.record.message:
            return ""
        lacks = "The report is incomplete: " if self.location else "There is no report: "
        return lacks + self.record.message


def plan_report(ended: EndedExperiment, settings: Settings, now: datetime) -> ReportStep:
    """What to do about the report.

    Args:
        ended: an experiment with a result.
        settings: the administrator's.
        now: the time, in UTC.
    """
    view, status, jobs = ended.observation.view, ended.observation.view.status, ended.observation.reports
    record = ReportRecord(results=_digest(ended))
    if status.reporting is not None and status.reporting.results == record.results:
        record = status.reporting
    if record.outcome is not None:
        known = Ranking(status.ranking, status.winner, status.conclusion or "")
        return ReportStep(record, known, status.report, deletions=remove_reports(view, jobs, with_policy=True))
    step = ReportStep(record, ended.by_scores, waiting=_WRITING)
    name = report_name(view.name, record.results, record.failures)
    job = next((one for one in jobs if one.name == name), None)
    step = replace(step, deletions=remove_reports(view, [one for one in jobs if one is not job]))
    if job is None:
        return _next_pod(step, ended, name, settings, now)
    if _is_over(job, now):
        return _after(step, ended, job, settings, now)
    if job.deleting or job.finished:
        return replace(step, requeue_after=POD_DELAY)
    if given_up := verdict_if_start_fails(job, now, settings.start_timeout):
        return _without_report(step, ended, given_up.reason, given_up.message)
    wait = wait_of_cpu_pod(job, cpu_node(settings), settings, now)
    return replace(step, waiting=f"{_WRITING}: {wait.message}" if wait.reason else _WRITING,
                   requeue_after=wait.requeue_after)


def remove_reports(view: ExperimentView, jobs: Iterable[AttemptView], with_policy: bool = False) -> tuple[Delete, ...]:
    """Delete Jobs that write reports, each after its ConfigMap, so that nothing is forgotten if a pass is killed.

    Args:
        view: the experiment.
        jobs: its Jobs.
        with_policy: whether no other Job follows, which would need the network's policy.
    """
    policy = Delete(API_VERSIONS["NetworkPolicy"], "NetworkPolicy", policy_name(view.name, view.uid))
    return tuple(deletion for job in jobs if not job.deleting for deletion in (
        *((policy,) if with_policy else ()), Delete("v1", "ConfigMap", report_config_name(job.name, view.uid)),
        delete_job(job.name)))


def _is_over(job: AttemptView, now: datetime) -> bool:
    """Whether a pod has ended, and what it reported is known: the watch of Jobs may be ahead of that of pods."""
    if job.finished and job.finished_at and now - job.finished_at < POD_DELAY:
        return all(pod.exit_code is not None or pod.kubelet_failure for pod in job.present_pods)
    return job.finished or end_time_of_pods(job, now) is not None or waits_for_sidecars(job, now)


def _digest(ended: EndedExperiment) -> str:
    """Digest of the results to compare, and of how they are ranked."""
    results = [(row.job, row.uid, row.after, row.adapter) for row in ended.rows if has_result(row)]
    rank_by = ended.experiment.resource.spec.rank_by.model_dump(mode="json")
    return digest_of([results, rank_by])


def _next_pod(step: ReportStep, ended: EndedExperiment, name: str, settings: Settings, now: datetime) -> ReportStep:
    """No pod exists: create one, or wait until one may be created."""
    if step.record.failed_at is not None:
        until = step.record.failed_at + backoff(step.record.failures, settings.retry_delay)
        if now < until:
            return replace(step, waiting=_again(step.record), requeue_after=until - now)
    request = ReportRequest(ended.observation.view, ended.experiment, ended.status, name, step.record.failures + 1)
    config = report_config_map(request)
    size = sum(len(key.encode()) + len(value.encode()) for key, value in config["data"].items())
    if size > _CONFIG_MAP_BYTES:
        return _without_report(step, ended, Reason.CANNOT_START,
                               _TOO_LARGE.format(size=size, limit=_CONFIG_MAP_BYTES, name=request.view.name))
    network = settings.trainer_network
    policy = (Apply(report_policy(request.view, network)),) if network else ()
    # The pod cannot start without its ConfigMap, and is not to run without its policy.
    return replace(step, actions=(Create(config), *policy, Create(report_job(request, settings))))


def _after(step: ReportStep, ended: EndedExperiment, job: AttemptView, settings: Settings, now: datetime) -> ReportStep:
    """What the end of a pod means."""
    reported = next((pod.reported for pod in job.pods if pod.reported), None)
    if job.complete or (job.pods and all(pod.exit_code == ExitCode.OK for pod in job.pods)):
        if reported is not None and reported.report is not None:
            return _with_report(step, ended, reported, reported.report)
        if any(pod.exit_code is not None for pod in job.pods):
            return _without_report(step, ended, Reason.UNKNOWN_EXIT, _OF_AN_OTHER_RELEASE)
    end = judge_end(job)
    if end.reason == Reason.DEADLINE_EXCEEDED:
        return _without_report(step, ended, end.reason, _TOO_SLOW)
    if end.reason == Reason.HOST_OUT_OF_MEMORY:
        return _without_report(step, ended, end.reason, _TOO_LITTLE_MEMORY)
    message = reported.message if reported else _LOST if end.reason == Reason.RESULT_LOST else end.message
    failures = step.record.failures + 1
    if end.retry in (Retry.NEVER, Retry.SMALLER_PLAN):
        return _without_report(step, ended, end.reason, message)
    if failures > ended.experiment.runs[0].job.spec.run_policy.backoff_limit:
        return _without_report(step, ended, end.reason, f"{message} (tried {failures} times)")
    record = step.record.model_copy(update={"failures": failures, "failed_at": now, "message": printable(message)})
    deletions = (*step.deletions, *remove_reports(ended.observation.view, [job]))
    return replace(step, record=record, waiting=_again(record), deletions=deletions,
                   requeue_after=backoff(failures, settings.retry_delay))


def _again(record: ReportRecord) -> str:
    return f"the report is written again: {record.message}"


def _with_report(step: ReportStep, ended: EndedExperiment, reported: ReportedExperiment, location: str) -> ReportStep:
    lacks = printable(reported.message) if reported.is_incomplete else None
    record = step.record.model_copy(update={"outcome": str(Outcome.SUCCEEDED), "failed_at": None, "message": lacks})
    return replace(_ended(step, ended, record), ranking=reported.ranked(ended.by_scores), location=location)


def _without_report(step: ReportStep, ended: EndedExperiment, reason: Reason | Outcome, message: str) -> ReportStep:
    record = step.record.model_copy(update={"outcome": str(reason), "failed_at": None, "message": printable(message)})
    return _ended(step, ended, record)


def _ended(step: ReportStep, ended: EndedExperiment, record: ReportRecord) -> ReportStep:
    view = ended.observation.view
    return replace(step, record=record, waiting=None,
                   deletions=remove_reports(view, ended.observation.reports, with_policy=True))
