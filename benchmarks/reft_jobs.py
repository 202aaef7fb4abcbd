"""What the benchmarks of ReFT share: SVAMP as a job's data, the job that is only supervised, and running a job."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from finetune_api import ExitCode, parse_job
from finetune_api.rules import merge_patch

SVAMP = {
    # kind of chains: (fields of spec.dataset, of spec.method.reft.reward)
    "text": ({"prompt": "{{ question }}", "completion": "{{ answer_cot }}\n#### {{ answer_value }}"},
             {"type": "finalAnswer", "trigger": "####"}),
    "program": ({"prompt": "{{ question }}", "completion": "{{ answer_cot }}"},
                {"type": "program", "answer": "{{ answer_value }}"}),
}
"""Rows of mwp_ReFT: question, answer_cot and answer_value."""

_VANISHING = {"steps": 1, "rollouts": 1, "miniBatchSize": 1, "learningRate": 1e-12}


def supervised_only(job: dict[str, Any], steps: int, learning_rate: float) -> dict[str, Any]:
    """The same job, adapter and judge, supervised for so many steps: its one PPO step has a vanishing rate."""
    return merge_patch(job, {"spec": {"method": {"reft": {"ppo": _VANISHING}},
                                      "training": {"maxSteps": steps, "learningRate": learning_rate}}})


def run_to_manifest(output: Path, job: dict[str, Any]) -> Path:
    """Run a job in this process, to an output of its own; the path of its manifest.

    Raises:
        AssertionError: it did not succeed; the text is what it said.
    """
    from finetune_trainer.run.local import LocalOptions, run_job
    from rich.console import Console

    said = io.StringIO()
    job = merge_patch(job, {"spec": {"output": {"uri": f"file://{output}"}}})
    code = run_job(parse_job(job), Console(file=said, width=200), LocalOptions())
    assert code == ExitCode.OK, said.getvalue()
    return next(output.rglob("manifest.json"))


def result_of(manifest: Path) -> dict[str, Any]:
    """The result that a manifest holds."""
    result: dict[str, Any] = json.loads(manifest.read_text(encoding="utf-8"))["result"]
    return result
