"""What joins the method, its settings and the engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune_api.rules.rule import Rule, Section
from finetune_api.rules.training import CEL_PROCESSES, processes

_TYPES = {"LoRA", "DoRA", "ReFT", "Partial", "Additive", "Full"}
_TRAINED = {"LoRA", "DoRA", "ReFT"}


def _method_type(method: Section) -> str:
    written: str = method.get("type", "LoRA")
    return written


def _part(method: Section, name: str) -> Mapping[str, Any]:
    """A section of the block `reft`."""
    part: Mapping[str, Any] = method.get("reft", {}).get(name, {})
    return part


def _reward_type(method: Section) -> str:
    written: str = _part(method, "reward").get("type", "finalAnswer")
    return written


def _block_rule(block: str, owner: str, other: str) -> Rule:
    """A block of settings goes with the type that it is named after.

    Args:
        block: the block's name.
        owner: the type that it belongs to.
        other: one that it doesn't.
    """
    return Rule(
        "spec.method", block,
        # A type that there is none of has an error of its own.
        lambda method: block not in method or _method_type(method) == owner or _method_type(method) not in _TYPES,
        f"!has(self.{block}) || (has(self.type) ? self.type : 'LoRA') == '{owner}'",
        f"the block {block} belongs to type {owner}: change the type, or name the block after it",
        accepts={"type": owner, block: {}}, refuses={"type": other, block: {}},
    )


RULES: tuple[Rule, ...] = (
    Rule(
        "spec.method", "type",
        lambda method: _method_type(method) in _TRAINED,
        "!has(self.type) || self.type in ['LoRA', 'DoRA', 'ReFT']",
        "this version trains LoRA, DoRA and ReFT; write one of them",
        accepts={"type": "DoRA"}, refuses={"type": "Full"},
    ),
    _block_rule("lora", "LoRA", "DoRA"),
    _block_rule("dora", "DoRA", "LoRA"),
    _block_rule("reft", "ReFT", "LoRA"),
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
        "reward type plugin needs the function's name (package.module:function), and no other type takes one",
        accepts={"type": "ReFT", "reft": {"reward": {"type": "plugin", "plugin": "rewards:score"}}},
        refuses={"type": "ReFT", "reft": {"reward": {"type": "plugin"}}},
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
        lambda method: method.get("reft", {}).get("policy", "LoRA") != "Full",
        "!has(self.reft) || self.reft.policy != 'Full'",
        "this version moves an adapter only: write LoRA or DoRA",
        accepts={"type": "ReFT", "reft": {"policy": "DoRA"}}, refuses={"type": "ReFT", "reft": {"policy": "Full"}},
    ),
    Rule(
        "spec", "method.type",
        lambda spec: _method_type(spec.get("method", {})) != "ReFT" or processes(spec) == 1,
        f"!has(self.method) || !has(self.method.type) || self.method.type != 'ReFT' || {CEL_PROCESSES} == 1",
        "ReFT trains in one process: write compute.nodes: 1 and compute.gpusPerNode: 1",
        accepts={"method": {"type": "ReFT"}, "compute": {"nodes": 1}},
        refuses={"method": {"type": "ReFT"}, "compute": {"nodes": 2}},
    ),
    Rule(
        "spec", "engine",
        lambda spec: spec.get("engine", "native") == "native",
        "!has(self.engine) || self.engine == 'native'",
        "this version has the native engine only; leave engine out",
        accepts={"engine": "native"}, refuses={"engine": "unsloth"},
    ),
)
