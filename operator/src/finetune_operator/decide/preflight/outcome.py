"""What the end of a preflight check means: by its result if it has one, else as the end of an attempt. Pure."""

from __future__ import annotations

from finetune_api.exit_codes import ExitCode
from finetune_api.failures import Retry
from finetune_api.messages import PreflightResult, PreflightVerdict
from finetune_api.reasons import Outcome, Reason
from finetune_api.spec.compute import AUTO

from finetune_operator.decide.actions import Plan
from finetune_operator.decide.attempts.verdict import AttemptVerdict, explaining_pod, judge_end
from finetune_operator.decide.preflight.removal import remove_preflights
from finetune_operator.decide.preflight.state import PreflightState, refuse_spec, report_preflight, with_record
from finetune_operator.observed.attempt import AttemptView

_TOO_LITTLE_MEMORY = ("the check needed more host memory than it has. Ask an administrator to raise "
                      "preflight.memory in the operator's settings")
_TOO_SLOW = ("the check did not end within preflight.timeout. Ask an administrator to raise "
             "preflight.timeout in the operator's settings")


def after_preflight(state: PreflightState, check: AttemptView) -> Plan | PreflightResult:
    """What follows from the end of a check.

    Returns:
        The result if the check found no problem; else the plan that refuses the spec or runs the check again.
    """
    result = next((pod.preflight_result for pod in check.pods if pod.preflight_result), None)
    succeeded = check.complete or (check.pods and all(pod.exit_code == ExitCode.OK for pod in check.pods))
    if succeeded and result and result.verdict is not PreflightVerdict.REFUSED:
        unusable = _why_choice_is_unusable(state, result)
        return refuse_spec(state, Reason.BAD_CONFIG, unusable) if unusable else result
    end = judge_end(check)
    if end.reason == Reason.DEADLINE_EXCEEDED:
        return refuse_spec(state, end.reason, _TOO_SLOW)
    reason, message = _reason_and_message(check, end, result)
    if end.retry in (Retry.NEVER, Retry.SMALLER_PLAN):
        return refuse_spec(state, reason, message)
    return _retry(state, check, end, result.message if result else message, message)


def _why_choice_is_unusable(state: PreflightState, result: PreflightResult) -> str | None:
    """Why the job cannot run on the accelerator that the check chose; None if it can, or names its own."""
    if state.spec.compute.accelerator != AUTO or result.verdict is PreflightVerdict.ALREADY_PUBLISHED:
        return None
    cure = f"write one of {', '.join(sorted(state.settings.accelerators))}"
    if result.accelerator is None:
        return f"spec.compute.accelerator is {AUTO}, and the trainer's image is of a release that chooses none: {cure}"
    if result.accelerator.name not in state.settings.accelerators:
        return (f"spec.compute.accelerator is {AUTO}, and the catalogue no longer has {result.accelerator.name}, which "
                f"the check chose: {cure}, or create the job again")
    return None


def _reason_and_message(check: AttemptView, end: AttemptVerdict, result: PreflightResult | None
                        ) -> tuple[Reason | Outcome, str]:
    if end.reason == Reason.HOST_OUT_OF_MEMORY:
        return end.reason, _TOO_LITTLE_MEMORY
    if result and any(pod.exit_code not in (ExitCode.OK, ExitCode.INTERNAL) for pod in check.pods):
        return result.reason, result.message
    return end.reason, end.message


def _retry(state: PreflightState, check: AttemptView, end: AttemptVerdict, last_message: str, message: str) -> Plan:
    """The plan to run the check again, until it has failed more often than `runPolicy.backoffLimit`."""
    # A check on a node that does not answer keeps its name. The number of failures is part of the next one's name.
    counts = end.retry is Retry.COUNTED or end.reason == Reason.POD_LOST
    failures = state.record.failures + (1 if counts else 0)
    if failures > state.spec.run_policy.backoff_limit:
        return refuse_spec(state, Reason.PREFLIGHT_FAILED, f"{last_message} (tried {failures} times)")
    pod = explaining_pod(check) if end.reason == Reason.NODE_REFUSED else None
    again = with_record(state, failures=failures, failed_at=state.now, node=pod.node if pod else None)
    return report_preflight(again, Reason.RETRYING, f"the check before the start runs again: {message}",
                            remove_preflights(state.observation))
