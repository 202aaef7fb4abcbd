"""How the report shows the settings of ReFT."""

from __future__ import annotations

from finetune_api.methods.reft import ReftSpec

from finetune_trainer.methods.lora.report import adapter_lines
from finetune_trainer.methods.trainer_method import ReportLines


def report_lines(settings: ReftSpec) -> ReportLines:
    """The adapter if one learns, PPO and the reward."""
    ppo = settings.ppo
    return [
        *(adapter_lines(settings.lora) if settings.lora else []),
        ("PPO", f"{ppo.steps:,} steps of {ppo.rollouts:,} roll-outs, mini-batches of {ppo.mini_batch_size:,}, "
                f"{ppo.epochs} passes, learning rate {ppo.learning_rate:g}, of the value head "
                f"{ppo.value_learning_rate:g}, KL {ppo.kl_coefficient:g}"),
        ("reward", f"{settings.reward.type}"),
    ]
