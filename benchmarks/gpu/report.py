"""The report: everything that was found, as one page of Markdown."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.gpu import findings
from benchmarks.gpu.findings import Finding
from benchmarks.gpu.goals import arms_of, failures, judge
from benchmarks.gpu.settings import Settings

MAIN_ROWS = {
    "ours": "ours, QLoRA",
    "trainer": "Trainer + PEFT as in 2024",
    "trl": "TRL's SFTTrainer at its defaults",
    "unsloth": "Unsloth as in its notebooks",
    "dora": "ours, QDoRA",
    "dora-peft": "PEFT's QDoRA in our trainer",
}
"""Arms that the table always has, measured or not."""

_NOT_RUN = "not run"
_LONG = ("stage", "table", "trace", "kernels", "said")


def write(settings: Settings) -> int:
    """Write report.md beside the findings and print it; 1 if a stage failed, whatever the goals came to."""
    found = findings.read(settings.out)
    text = render(found, settings)
    path = settings.out / "report.md"
    settings.out.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    print(f"{text}\n{path}")
    return int(bool(failures(found)))


def render(found: Sequence[Finding], settings: Settings) -> str:
    """The report of these findings."""
    sections = (_head(found, settings), _goals(found, settings), _arms(found), _estimates(found), _jobs(found),
                _others(found), _reft(found), _kernels(found), _failures(found))
    return "\n\n".join("\n".join(section) for section in sections if section) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """A table in Markdown."""
    return [_line(head), _line(["---"] * len(head)), *(_line(row) for row in rows)]


def _line(cells: Sequence[Any]) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _head(found: Sequence[Finding], settings: Settings) -> list[str]:
    card = next((one for one in found if one.get("name") == "card"), {})
    versions = next((one for one in found if one.get("name") == "versions"), {})
    named = ", ".join(f"{name} {version}" for name, version in versions.items() if name not in ("stage", "name"))
    lines = ["# The trainer on a GPU", "",
             f"{card.get('gpu', 'card unknown')}, {card.get('totalGiB', '?')} GiB, training capped to "
             f"{settings.cap_gib:g} GiB; {datetime.date.today().isoformat()}", "", named or "versions unknown"]
    if settings.dry:
        lines += ["", "**A dry run on a CPU with tiny shapes: it shows that the check works. No figure below means "
                      "anything, and no goal that needs one is judged.**"]
    return lines


def _goals(found: Sequence[Finding], settings: Settings) -> list[str]:
    return ["## Goals", "", *table(("", "goal", "found"), (
        (goal.verdict, goal.wanted, goal.found) for goal in judge(found, settings.dry)))]


def _arms(found: Sequence[Finding]) -> list[str]:
    arms = arms_of(found)
    peer = arms.get("trainer", {}).get("tokensPerSecond")
    rows = [_arm_row(title, arms.get(name), peer) for name, title in MAIN_ROWS.items()]
    others = [_arm_row(arm["title"] + (" (cuDNN first)" if name.endswith("(cuDNN)") else ""), arm, peer)
              for name, arm in arms.items() if name not in MAIN_ROWS]
    return ["## Training", "", "Memory in MiB of torch's allocator; loss of the first two steps.", "", *table(
        ("arm", "tokens/s", "to 2024", "peak", "above weights", "reserved", "rows a pass", "checkpointing", "padding",
         "loss"), rows + others)]


def _arm_row(title: str, arm: Finding | None, peer: float | None) -> list[Any]:
    if arm is None:
        return [title, _NOT_RUN, *[""] * 8]
    speed = arm.get("tokensPerSecond")
    return [title, speed or "too few steps", f"{speed / peer:.2f}" if speed and peer else "", arm["peakMiB"],
            arm["peakMiB"] - arm["loadedMiB"], arm.get("reservedMiB", ""), arm["microBatch"], arm["checkpointing"],
            f"{arm['padding']:.0%}", ", ".join(f"{loss:.4f}" for loss in arm["losses"][:2])]


def _estimates(found: Sequence[Finding]) -> list[str]:
    cases = [one for one in found if one["stage"] == "estimate" and "measuredMiB" in one]
    return ["## The memory estimate", "", "Without the driver's part. Ratios are to what the allocator handed out at "
            "most: of the plan before training, and of the estimate of the passes that there were.", "", *table(
                ("case", "measured MiB", "plan", "estimate", "rows a pass", "checkpointing"),
                ([one["name"], one["measuredMiB"], one["planToMeasured"], one["estimateToMeasured"],
                  one["microBatch"], one["checkpointing"]] for one in cases) if cases
                else [[_NOT_RUN, *[""] * 5]])]


def _jobs(found: Sequence[Finding]) -> list[str]:
    jobs = [one for one in found if "job" in one]
    return ["## Whole tiny jobs", "", *table(
        ("job", "end", "seconds", "loss before", "after"),
        ([one["job"], "Succeeded" if one["code"] == 0 else f"exit code {one['code']}", one["seconds"],
          *(f"{loss:.3f}" if loss is not None else "" for loss in one["loss"])] for one in jobs) if jobs
        else [[_NOT_RUN, *[""] * 4]])]


def _others(found: Sequence[Finding]) -> list[str]:
    """Whatever has no table of its own: a line each, by stage."""
    lines = ["## Everything else"]
    sections = {"machine": "Machine", "model": "Loading", "correctness": "Correctness",
                "adapters": "Fused adapters, relative errors", "kernels": "Kernels, relative errors",
                "resume": "Resume, trouble",
                "merge": "Merge, DoRA's rounding", "sampler": "Sampler", "unsloth": "Unsloth"}
    for stage, title in sections.items():
        here = [one for one in found if one["stage"] == stage and "name" in one and "failed" not in one]
        rows = [[one["name"], _values(one)] for one in here] or [[_NOT_RUN, ""]]
        lines += ["", f"### {title}", "", *table(("what", "found"), rows)]
    return lines


def _values(finding: Finding) -> str:
    return ", ".join(f"{name} {value if not isinstance(value, dict | list) else json.dumps(value)}"
                     for name, value in finding.items() if name not in ("name", *_LONG))[:1500]


def _reft(found: Sequence[Finding]) -> list[str]:
    arms = [one for one in found if "accuracy" in one]
    lines = ["## ReFT on a real model", "", *table(
        ("chains", "arm", "held-out accuracy", "optimizer steps", "seconds"),
        ([one["chains"], one["reftArm"], f"{one['accuracy']:.3f}", one["optimizerSteps"], one["seconds"]]
         for one in arms) if arms else [[_NOT_RUN, *[""] * 4]])]
    for one in found:
        if "curve" in one:
            lines += ["", f"PPO on {one['chains']} chains, a line for each tenth of its steps (all of them in "
                          f"{one['file']}, drawn in reft-curves.html):", "", *table(
                              tuple(one["curve"][0]), (list(point.values()) for point in one["curve"]))]
        if "answer" in one:
            lines += ["", f"{one['chains']}: {one['answer']}"]
    return lines


def _kernels(found: Sequence[Finding]) -> list[str]:
    profiled = [one for one in found if one.get("kernels")]
    if not profiled:
        return []
    kinds = list(dict.fromkeys(kind for one in profiled for kind in one["kernels"]))
    return ["## Where the time goes", "", "Share of the kernels' time, by kind.", "", *table(
        ("arm", *kinds), ([one["title"], *(f"{one['kernels'].get(kind, [0, 0])[1]:.0%}" for kind in kinds)]
                          for one in profiled))]


def _failures(found: Sequence[Finding]) -> list[str]:
    bad = failures(found)
    if not bad:
        return []
    return ["## What failed", "", *table(("stage", "what", "how"), (
        [one["stage"], one.get("name", "the whole stage"), one.get("failed", one.get("ended"))] for one in bad))]
