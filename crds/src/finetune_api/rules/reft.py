"""What joins the settings of ReFT."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune_api.rules.rule import Rule, Section
from finetune_api.rules.training import CEL_PROCESSES, processes


def _part(method: Section, name: str) -> Mapping[str, Any]:
    """A section of the block `reft`."""
    part: Mapping[str, Any] = method.get("reft", {}).get(name, {})
    return part


def all_weights(method: Section) -> bool:
    """Whether ReFT moves the model itself."""
    return bool(method.get("type") == "ReFT" and method.get("reft", {}).get("policy") == "Full")


def _reward_type(method: Section) -> str:
    written: str = _part(method, "reward").get("type", "finalAnswer")
    return written


RULES: tuple[Rule, ...] = (
    Rule(
        "spec.method", "reft.ppo.miniBatchSize",
        lambda method: _part(method, "ppo").get("rollouts", 128) % _part(method, "ppo").get("miniBatchSize", 64) == 0,
        "!has(self.reft) || self.reft.ppo.rollouts % self.reft.ppo.miniBatchSize == 0",
        "the roll-outs of a step are shared equally among mini-batches: write a divisor of rollouts (128 roll-outs in "
        "mini-batches of 64 by default)",
        accepts={"type": "ReFT", "reft": {"ppo": {"rollouts": 96, "miniBatchSize": 32}}},
        refuses={"type": "ReFT", "reft": {"ppo": {"rollouts": 96}}},
    ),
    Rule(
        "spec.method", "reft.reward.plugin",
        lambda method: ("plugin" in _part(method, "reward")) == (_reward_type(method) == "plugin"),
        "!has(self.reft) || has(self.reft.reward.plugin) == (self.reft.reward.type == 'plugin')",
        "reward type plugin needs the plug-in's name, and no other type takes one",
        accepts={"type": "ReFT", "reft": {"reward": {"type": "plugin", "plugin": "by-length"}}},
        refuses={"type": "ReFT", "reft": {"reward": {"type": "plugin"}}},
    ),
    Rule(
        "spec.method", "reft.reward.plugin",
        lambda method: ":" not in _part(method, "reward").get("plugin", ""),
        "!has(self.reft) || !has(self.reft.reward.plugin) || !self.reft.reward.plugin.contains(':')",
        "a plug-in is an entry point of the group finetune.rewards in the trainer's image: write the entry point's "
        "name, not package.module:function",
        accepts={"type": "ReFT", "reft": {"reward": {"type": "plugin", "plugin": "my_rewards.by-length"}}},
        refuses={"type": "ReFT", "reft": {"reward": {"type": "plugin", "plugin": "rewards:score"}}},
    ),
    Rule(
        "spec.method", "reft.reward.answer",
        lambda method: _reward_type(method) != "program" or "answer" in _part(method, "reward"),
        "!has(self.reft) || self.reft.reward.type != 'program' || has(self.reft.reward.answer)",
        "reward type program needs a template of the right answer, such as answer: '{{ answer }}'",
        accepts={"type": "ReFT", "reft": {"reward": {"type": "program", "answer": "{{ answer }}"}}},
        refuses={"type": "ReFT", "reft": {"reward": {"type": "program"}}},
    ),
    Rule(
        "spec.method", "reft.policy",
        lambda method: not all_weights(method) or (
            method.get("quantization", "none") == "none" and "lora" not in method["reft"]),
        "!has(self.reft) || self.reft.policy != 'Full' || (!has(self.reft.lora) && "
        "(!has(self.quantization) || self.quantization == 'none'))",
        "policy Full trains the base weights themselves, without an adapter, and 8 or 4 bits can't follow: leave "
        "quantization and reft.lora out, or write policy: LoRA",
        accepts={"type": "ReFT", "reft": {"policy": "Full"}},
        refuses={"type": "ReFT", "quantization": "nf4", "reft": {"policy": "Full"}},
    ),
    Rule(
        "spec", "method.reft.ppo.miniBatchSize",
        lambda spec: _part(spec.get("method", {}), "ppo").get("miniBatchSize", 64) % processes(spec) == 0
        or spec.get("method", {}).get("type") != "ReFT",
        f"!has(self.method) || !has(self.method.type) || self.method.type != 'ReFT' || "
        f"(has(self.method.reft) ? self.method.reft.ppo.miniBatchSize : 64) % {CEL_PROCESSES} == 0",
        "the responses of a mini-batch are shared equally among all GPUs: write a multiple of compute.nodes × "
        "compute.gpusPerNode (miniBatchSize is 64 by default)",
        accepts={"method": {"type": "ReFT"}, "compute": {"nodes": 2}},
        refuses={"method": {"type": "ReFT"}, "training": {"batchSize": 24}, "compute": {"nodes": 3}},
    ),
)
