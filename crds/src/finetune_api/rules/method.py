"""What joins the method, its settings and the engine."""

from __future__ import annotations

from finetune_api.rules.rule import Rule, Section

_TYPES = {"LoRA", "DoRA", "ReFT", "Partial", "Additive", "Full"}
_TRAINED = {"LoRA", "DoRA"}


def _method_type(method: Section) -> str:
    written: str = method.get("type", "LoRA")
    return written


def _unsloth(spec: Section) -> bool:
    return bool(spec.get("engine", "native") == "unsloth")


def _one_gpu(compute: Section) -> bool:
    return bool(compute.get("gpusPerNode", 1) == 1 and compute.get("nodes", 1) == 1
                and compute.get("accelerator") != "cpu")


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
        "!has(self.type) || self.type in ['LoRA', 'DoRA']",
        "this version trains LoRA and DoRA; write one of them",
        accepts={"type": "DoRA"}, refuses={"type": "Full"},
    ),
    _block_rule("lora", "LoRA", "DoRA"),
    _block_rule("dora", "DoRA", "LoRA"),
    Rule(
        "spec", "engine",
        lambda spec: not _unsloth(spec) or (_method_type(spec.get("method", {})) == "LoRA"
                                            and spec.get("method", {}).get("quantization", "none") != "int8"),
        "!has(self.engine) || self.engine != 'unsloth' || !has(self.method) || "
        "((!has(self.method.type) || self.method.type == 'LoRA') && "
        "(!has(self.method.quantization) || self.method.quantization != 'int8'))",
        "unsloth trains LoRA with quantization none or nf4; change the method, or write engine: native",
        accepts={"engine": "unsloth", "method": {"type": "LoRA", "quantization": "nf4"}},
        refuses={"engine": "unsloth", "method": {"type": "DoRA"}},
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
