"""How a run was trained, in words and numbers."""

from __future__ import annotations

from finetune_api.spec.method import MethodSpec, ReftSpec

from finetune_trainer.report.facts import RunFacts


def settings(facts: RunFacts) -> list[tuple[str, str]]:
    """What was set, and what came of it, in the order of the report."""
    spec, training = facts.run.spec, facts.run.spec.training
    share = facts.trainable_parameters / facts.base["parameters"] if facts.base.get("parameters") else None
    lines = [
        ("method", facts.method_name),
        *_method_settings(spec.method),
        ("trained parameters", f"{facts.trainable_parameters:,}" + (f" ({_percent(share)})" if share else "")),
        ("steps", f"{facts.step:,} of {facts.total_steps:,}" +
         (f" ({training.epochs:g} epochs)" if training.epochs else "")),
        ("rows per step", f"{training.batch_size:,}, {facts.micro_batch_size:,} at once"),
        ("learning rate", f"{training.learning_rate:g}, {training.scheduler}, warm-up {100 * training.warmup:g} %"
         if training.learning_rate else "–"),
        *_ppo_settings(spec.method.reft),
        ("longest row", f"{training.max_length:,} tokens"),
        ("base weights", f"{spec.method.quantization}" if spec.method.quantization != "none" else "not quantized"),
        ("seed", str(training.seed)),
    ]
    if facts.resumed_from_step:
        lines.append(("resumed", f"from the checkpoint of step {facts.resumed_from_step:,}"))
    return lines


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"


def _method_settings(method: MethodSpec) -> list[tuple[str, str]]:
    if method.low_rank:
        _, adapter = method.low_rank
        lines = [("rank, alpha, dropout", f"{adapter.rank}, {adapter.alpha:g}, {adapter.dropout:g}"),
                 ("adapted layers", ", ".join(adapter.target_modules) if adapter.target_modules else
                  "every linear layer but the head")]
        if method.lora and method.lora.initialization != "default":
            lines.append(("started from", f"{method.lora.initialization}"))
        if adapter.learning_rate_ratio:
            lines.append(("learning rate of B", f"{adapter.learning_rate_ratio:g} times A's"))
        return lines
    if part := method.partial:
        if part.parameters:
            return [("trained parameters named", ", ".join(part.parameters))]
        return [("trained layers", ", ".join(map(str, part.layers)) if part.layers else f"the last {part.last_layers}")]
    if added := method.additive:
        if added.virtual_tokens:
            return [("virtual tokens", f"{added.virtual_tokens:,}")]
        if added.bottleneck_size:
            return [("bottleneck's width", f"{added.bottleneck_size:,}")]
        return [("scaled layers", ", ".join(added.target_modules) if added.target_modules else "PEFT's for the model")]
    return []


def _ppo_settings(reft: ReftSpec | None) -> list[tuple[str, str]]:
    if reft is None:
        return []
    ppo = reft.ppo
    return [("PPO", f"{ppo.steps:,} steps of {ppo.rollouts:,} roll-outs, mini-batches of {ppo.mini_batch_size:,}, "
             f"{ppo.epochs} passes, learning rate {ppo.learning_rate:g}, of the value head "
             f"{ppo.value_learning_rate:g}, KL {ppo.kl_coefficient:g}"),
            ("reward", f"{reft.reward.type}")]
