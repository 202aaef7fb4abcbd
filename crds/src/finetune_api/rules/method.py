"""Rules that join the method with its settings, the quantization, the engine and the exports: made from the table.

The rules of a single method stand in its own module (`finetune_api.methods`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from finetune_api.methods.method import DEFAULT_METHOD, Method, named
from finetune_api.rule import Rule, Section
from finetune_api.spec.method import METHODS

_BY_NAME: Mapping[str, Method[Any]] = {str(kind): method for kind, method in METHODS.items()}
_QUANTIZED = [name for name, method in _BY_NAME.items() if method.quantizable]
_NOT_QUANTIZED = sorted(name for name, method in _BY_NAME.items() if not method.quantizable)
_UNSLOTH = [name for name, method in _BY_NAME.items() if method.unsloth]
_REWARDED = [name for name, method in _BY_NAME.items() if method.has_reward]

CEL_HAS_REWARD = f"(has(self.method) && has(self.method.type) && self.method.type in {_REWARDED})"
"""Whether the method judges answers by a reward, where `self` is the spec."""


def has_reward(spec: Section) -> bool:
    """The same in Python."""
    return spec.get("method", {}).get("type") in _REWARDED


def _type(method: Section) -> str:
    written: str = method.get("type", DEFAULT_METHOD)
    return written


def _block_rules() -> Iterator[Rule]:
    """A block of settings belongs to the type that it is named after."""
    for name, method in _BY_NAME.items():
        if method.block:
            other = next(other for other in _BY_NAME if other != name)
            yield _block_rule(method.block, name, other, method.smallest_block)


def _block_rule(block: str, owner: str, other: str, content: Section) -> Rule:
    return Rule(
        "spec.method", block,
        # A type that does not exist has an error of its own.
        lambda method: block not in method or _type(method) == owner or _type(method) not in _BY_NAME,
        f"!has(self.{block}) || (has(self.type) ? self.type : '{DEFAULT_METHOD}') == '{owner}'",
        f"the block {block} belongs to type {owner}: change the type, or name the block after it",
        accepts={"type": owner, block: content}, refuses={"type": other, block: content},
    )


def _can_merge(spec: Section) -> bool:
    method = spec.get("method", {})
    condition = _BY_NAME[_type(method)].mergeable if _type(method) in _BY_NAME else None
    return condition is None or condition.holds(method)


_CEL_CAN_MERGE = " && ".join(f"(self.method.type != '{name}' || {method.mergeable.cel})"
                             for name, method in _BY_NAME.items() if method.mergeable)


def _unsloth(spec: Section) -> bool:
    return bool(spec.get("engine", "native") == "unsloth")


def _one_gpu(compute: Section) -> bool:
    return bool(compute.get("gpusPerNode", 1) == 1 and compute.get("nodes", 1) == 1
                and compute.get("accelerator") != "cpu")


RULES: tuple[Rule, ...] = (
    *_block_rules(),
    *(rule for method in METHODS.values() for rule in method.rules),
    Rule(
        "spec.method", "quantization",
        lambda method: _type(method) not in _NOT_QUANTIZED or method.get("quantization", "none") == "none",
        f"!has(self.type) || !(self.type in {_NOT_QUANTIZED}) || !has(self.quantization) || "
        "self.quantization == 'none'",
        f"{named(_NOT_QUANTIZED)} train the base weights, which cannot be quantized while they are trained: "
        f"remove quantization, or choose {named(_QUANTIZED, 'or')}",
        accepts={"type": _QUANTIZED[0], "quantization": "nf4"},
        refuses={"type": "Full", "quantization": "nf4"},
    ),
    Rule(
        "spec", "output.exports",
        lambda spec: "merged" not in spec["output"].get("exports", ()) or _can_merge(spec),
        "!has(self.output.exports) || !self.output.exports.exists(e, e == 'merged') || !has(self.method) || "
        f"!has(self.method.type) || {_CEL_CAN_MERGE}",
        "merged is not possible for Full and for ReFT with policy: Full, which already publish a whole model, nor for "
        "PromptTuning, PrefixTuning and Bottleneck, which do not change the base weights: remove merged",
        accepts={"method": {"type": DEFAULT_METHOD}, "output": {"exports": ["merged"]}},
        refuses={"method": {"type": "Full"}, "output": {"exports": ["merged"]}},
    ),
    Rule(
        "spec", "engine",
        lambda spec: not _unsloth(spec) or (_type(spec.get("method", {})) in _UNSLOTH
                                            and spec.get("method", {}).get("quantization", "none") != "int8"),
        "!has(self.engine) || self.engine != 'unsloth' || !has(self.method) || "
        f"((!has(self.method.type) || self.method.type in {_UNSLOTH}) && "
        "(!has(self.method.quantization) || self.method.quantization != 'int8'))",
        f"unsloth trains {named(_UNSLOTH)} with quantization none or nf4; change the method, or write engine: native",
        accepts={"engine": "unsloth", "method": {"type": _UNSLOTH[0], "quantization": "nf4"}},
        refuses={"engine": "unsloth", "method": {"type": next(name for name in _BY_NAME if name not in _UNSLOTH)}},
    ),
    Rule(
        "spec", "engine",
        lambda spec: not _unsloth(spec)
        or spec.get("method", {}).get("lora", {}).get("initialization", "default") != "pissa",
        "!has(self.engine) || self.engine != 'unsloth' || !has(self.method) || !has(self.method.lora) || "
        "!has(self.method.lora.initialization) || self.method.lora.initialization != 'pissa'",
        "unsloth has a PiSSA of its own, which cannot be published as a plain LoRA: remove method.lora.initialization, "
        "or write engine: native",
        accepts={"engine": "unsloth", "method": {"quantization": "nf4", "lora": {"initialization": "loftq"}}},
        refuses={"engine": "unsloth", "method": {"lora": {"initialization": "pissa"}}},
    ),
    Rule(
        "spec", "engine",
        lambda spec: not _unsloth(spec) or _one_gpu(spec.get("compute", {})),
        "!has(self.engine) || self.engine != 'unsloth' || !has(self.compute) || "
        "((!has(self.compute.gpusPerNode) || self.compute.gpusPerNode == 1) && "
        "(!has(self.compute.nodes) || self.compute.nodes == 1) && "
        "(!has(self.compute.accelerator) || self.compute.accelerator != 'cpu'))",
        "unsloth trains on exactly one NVIDIA GPU: write gpusPerNode: 1, nodes: 1 and a GPU as accelerator in "
        "spec.compute, or engine: native",
        accepts={"engine": "unsloth", "compute": {"gpusPerNode": 1, "nodes": 1}},
        refuses={"engine": "unsloth", "compute": {"gpusPerNode": 2}},
    ),
)
