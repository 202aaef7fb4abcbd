"""The training settings of a run, as the report and the card show them."""

from __future__ import annotations

from finetune_trainer.methods import METHODS
from finetune_trainer.report.facts import RunFacts


def settings(facts: RunFacts) -> list[tuple[str, str]]:
    """The settings with their values, in the order of the report."""
    spec, training = facts.run.spec, facts.run.spec.training
    share = facts.trainable_parameters / facts.base["parameters"] if facts.base.get("parameters") else None
    lines = [
        ("method", facts.method_name),
        *(METHODS[spec.method.type].report_lines(spec.method.settings) if spec.method.settings else ()),
        ("trained parameters", f"{facts.trainable_parameters:,}" + (f" ({_percent(share)})" if share else "")),
        ("steps", f"{facts.step:,} of {facts.total_steps:,}" +
         (f" ({training.epochs:g} epochs)" if training.epochs else "")),
        ("rows per step", f"{training.batch_size:,}, {facts.micro_batch_size:,} per forward pass"),
        *([("gradient checkpointing", facts.checkpointing)] if facts.checkpointing else ()),
        ("learning rate", f"{training.learning_rate:g}, {training.scheduler}, warm-up {100 * training.warmup:g} %"
         if training.learning_rate else "–"),
        ("maximum row length", f"{training.max_length:,} tokens"),
        ("base weights", f"{spec.method.quantization}" if spec.method.quantization != "none" else "not quantized"),
        ("seed", str(training.seed)),
    ]
    if facts.resumed_from_step:
        lines.append(("resumed", f"from the checkpoint of step {facts.resumed_from_step:,}"))
    return lines


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"
