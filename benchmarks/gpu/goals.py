"""What has to be reached, as decisions over findings: PASS, or MISS with what was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.gpu.findings import Finding

FASTER_THAN_2024 = 2.0
MEMORY_OF_2024 = 0.5
DORA_TO_LORA = 1.08
ESTIMATE_ABOVE = 1.05


@dataclass(frozen=True)
class Goal:
    """A goal and what was found.

    Attributes:
        wanted: the goal in words.
        found: what was found in words.
        reached: whether it is reached, which what was not measured is not; None in a dry run, for goals that need the
            figures of a GPU.
    """

    wanted: str
    found: str
    reached: bool | None

    @property
    def verdict(self) -> str:
        """PASS or MISS, or that nothing was judged."""
        return {True: "PASS", False: "MISS", None: "dry"}[self.reached]


def judge(findings: Sequence[Finding], dry: bool = False) -> list[Goal]:
    """All goals, in the order of the report."""
    figures = _of_figures(findings)
    return [*(replace(goal, reached=None) for goal in figures), *_of_ends(findings)] if dry else [
        *figures, *_of_ends(findings)]


def _of_figures(findings: Sequence[Finding]) -> list[Goal]:
    arms = arms_of(findings)
    ours, trainer, unsloth, dora = (arms.get(name) for name in ("ours", "trainer", "unsloth", "dora"))
    return [
        _at_least(f"≥ {FASTER_THAN_2024:g} × the tokens/s of Trainer + PEFT as in 2024", FASTER_THAN_2024,
                  _ratio(_speed(ours), _speed(trainer)), "×"),
        _at_most(f"≤ {MEMORY_OF_2024:g} × its memory above the weights", MEMORY_OF_2024,
                 _ratio(_above_weights(ours), _above_weights(trainer)), "×"),
        _at_least("not below Unsloth's tokens/s", 1.0, _ratio(_speed(ours), _speed(unsloth)), "×"),
        _at_most("not above Unsloth's memory", 1.0, _ratio(_peak(ours), _peak(unsloth)), "×"),
        _at_most(f"QDoRA's time ≤ {DORA_TO_LORA:g} × QLoRA's", DORA_TO_LORA, _ratio(_speed(ours), _speed(dora)), "×"),
        _estimates(findings),
    ]


def _of_ends(findings: Sequence[Finding]) -> list[Goal]:
    return [
        _all_ok("every whole tiny job Succeeded", [(one["job"], one["code"] == 0)
                                                   for one in findings if "job" in one]),
        _all_ok("every check of what a GPU computes agrees", [(one["name"], one["ok"])
                                                              for one in findings if "ok" in one]),
        _all_ended(findings),
    ]


def arms_of(findings: Sequence[Finding]) -> dict[str, Finding]:
    """The last finding of each arm; with cuDNN first it is another arm."""
    return {one["arm"] if one["stage"] != "cudnn" else f"{one['arm']} (cuDNN)": one for one in findings
            if "arm" in one}


def failures(findings: Sequence[Finding]) -> list[Finding]:
    """What failed, in whole or in part, or did not run to its end."""
    return [one for one in findings if "failed" in one or one.get("ended", 0) != 0]


def _speed(arm: Finding | None) -> float | None:
    return arm.get("tokensPerSecond") if arm else None


def _peak(arm: Finding | None) -> float | None:
    return arm.get("peakMiB") if arm else None


def _above_weights(arm: Finding | None) -> float | None:
    return arm["peakMiB"] - arm["loadedMiB"] if arm else None


def _ratio(first: float | None, second: float | None) -> float | None:
    return first / second if first and second else None


def _at_least(wanted: str, least: float, found: float | None, unit: str) -> Goal:
    return _goal(wanted, found, unit, found is not None and found >= least)


def _at_most(wanted: str, most: float, found: float | None, unit: str) -> Goal:
    return _goal(wanted, found, unit, found is not None and found <= most)


def _goal(wanted: str, found: float | None, unit: str, reached: bool) -> Goal:
    return Goal(wanted, "not measured" if found is None else f"{found:.2f} {unit}", reached)


def _estimates(findings: Sequence[Finding]) -> Goal:
    """Of the passes that there were, within 5 %; and neither this nor the plan below what was measured."""
    wanted = f"the estimate at most {ESTIMATE_ABOVE - 1:.0%} above the allocator's peak, and never below"
    cases = [one for one in findings if one["stage"] == "estimate" and one.get("estimateToMeasured")]
    if not cases:
        return Goal(wanted, "not measured", False)
    ratios = [one["estimateToMeasured"] for one in cases]
    plans = [one["planToMeasured"] for one in cases]
    return Goal(wanted, f"{len(cases)} cases: {min(ratios):.3f} to {max(ratios):.3f}, plans from {min(plans):.3f}",
                min(ratios) >= 1 and max(ratios) <= ESTIMATE_ABOVE and min(plans) >= 1)


def _all_ok(wanted: str, results: Sequence[tuple[str, Any]]) -> Goal:
    bad = [name for name, ok in results if not ok]
    found = f"{len(results) - len(bad)} of {len(results)}" + (f"; not {', '.join(bad)}" if bad else "")
    return Goal(wanted, found if results else "not measured", bool(results) and not bad)


def _all_ended(findings: Sequence[Finding]) -> Goal:
    bad = failures(findings)
    names = list(dict.fromkeys(f"{one['stage']}: {one.get('name') or one['ended']}" for one in bad))
    return Goal("no stage failed, as a whole or in part", "; ".join(names) if names else "none did", not bad)
