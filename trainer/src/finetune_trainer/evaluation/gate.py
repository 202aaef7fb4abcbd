"""The quality gate: whether training gained what the job demands. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from finetune_api.spec.evaluation import LOWER_IS_BETTER, GateSpec
from finetune_api.spec.job import FineTuneJobSpec
from finetune_api.status.evaluation import headline

from finetune_trainer.evaluation.scores import Scores


@dataclass(frozen=True)
class GateResult:
    """Whether the gate is passed, and a sentence that says why."""

    passed: bool
    words: str


def gate_of(spec: FineTuneJobSpec) -> GateSpec | None:
    """The gate that judges a job. A job that asks for a part of the run is not judged, even if the part is the whole:
    a run of one step has no smaller one."""
    return None if spec.run_policy.stop_after is not None else spec.evaluation.gate


def judge(gate: GateSpec | None, before: Scores | None, after: Scores) -> GateResult | None:
    """The result of the gate; None where the job has no gate. A missing score does not pass."""
    if gate is None:
        return None
    first, last = headline(before or {}, gate.metric), headline(after, gate.metric)
    if first is None or last is None:
        return GateResult(False, f"{gate.metric} could not be measured, so the gate is not passed")
    gain = first - last if gate.metric in LOWER_IS_BETTER else last - first
    passed = gain >= gate.minimum_gain
    compared = "at least" if passed else "less than"
    return GateResult(passed, f"{gate.metric} went from {first:.4g} to {last:.4g}: a gain of {gain:.4g}, {compared} "
                              f"the {gate.minimum_gain:.4g} that the gate demands")
