"""What joins the method, its settings and the engine."""

from __future__ import annotations

from finetune_api.rules.reft import all_weights
from finetune_api.rules.rule import Rule, Section

_TYPES = {"LoRA", "DoRA", "ReFT", "Partial", "Additive", "Full"}
_IN_PLACE = {"Full", "Partial"}
_VIRTUAL_TOKENS = {"PromptTuning", "PrefixTuning"}
_INITIALIZATIONS = {"pissa": "none", "loftq": "nf4"}
_PARTS = {"lastLayers", "layers", "parameters"}


def _method_type(method: Section) -> str:
    written: str = method.get("type", "LoRA")
    return written


def _technique(method: Section) -> str | None:
    """The technique of an additive method; None of any other."""
    return method.get("additive", {}).get("technique", "IA3") if _method_type(method) == "Additive" else None


def _unsloth(spec: Section) -> bool:
    return bool(spec.get("engine", "native") == "unsloth")


def _one_gpu(compute: Section) -> bool:
    return bool(compute.get("gpusPerNode", 1) == 1 and compute.get("nodes", 1) == 1
                and compute.get("accelerator") != "cpu")


def _block_rule(block: str, owner: str, other: str, filled: Section | None = None) -> Rule:
    """A block of settings goes with the type that it is named after.

    Args:
        block: the block's name.
        owner: the type that it belongs to.
        other: one that it doesn't.
        filled: a block that is right by itself.
    """
    filled = filled or {}
    return Rule(
        "spec.method", block,
        # A type that there is none of has an error of its own.
        lambda method: block not in method or _method_type(method) == owner or _method_type(method) not in _TYPES,
        f"!has(self.{block}) || (has(self.type) ? self.type : 'LoRA') == '{owner}'",
        f"the block {block} belongs to type {owner}: change the type, or name the block after it",
        accepts={"type": owner, block: filled}, refuses={"type": other, block: filled},
    )


def _technique_rule(field: str, owners: set[str], other: str, value: object) -> Rule:
    """A setting of an additive method goes with the techniques that have it.

    Args:
        field: the setting.
        owners: the techniques that have it.
        other: one that doesn't.
        value: one that is right by itself.
    """
    return Rule(
        "spec.method", f"additive.{field}",
        lambda method: field not in method.get("additive", {}) or method["additive"].get("technique", "IA3") in owners,
        f"!has(self.additive) || !has(self.additive.{field}) || "
        f"(has(self.additive.technique) ? self.additive.technique : 'IA3') in {sorted(owners)}",
        f"{field} belongs to technique {' and '.join(sorted(owners))}: leave it out, or change the technique",
        accepts={"type": "Additive", "additive": {"technique": min(owners), field: value}},
        refuses={"type": "Additive", "additive": {"technique": other, field: value}},
    )


def _initialization_fits(method: Section) -> bool:
    chosen = method.get("lora", {}).get("initialization", "default")
    return chosen not in _INITIALIZATIONS or method.get("quantization", "none") == _INITIALIZATIONS[chosen]


def _nothing_to_merge(method: Section) -> bool:
    return _method_type(method) == "Full" or all_weights(method) or _technique(method) not in (None, "IA3")


RULES: tuple[Rule, ...] = (
    _block_rule("lora", "LoRA", "DoRA"),
    _block_rule("dora", "DoRA", "LoRA"),
    _block_rule("partial", "Partial", "Full", {"lastLayers": 1}),
    _block_rule("additive", "Additive", "LoRA"),
    _block_rule("reft", "ReFT", "LoRA"),
    Rule(
        "spec.method", "partial",
        lambda method: _method_type(method) != "Partial" or "partial" in method,
        "!has(self.type) || self.type != 'Partial' || has(self.partial)",
        "type Partial needs to know what to train: write partial: {lastLayers: 2}, or layers, or parameters",
        accepts={"type": "Partial", "partial": {"lastLayers": 2}}, refuses={"type": "Partial"},
    ),
    Rule(
        "spec.method", "partial.lastLayers",
        lambda method: "partial" not in method or len(_PARTS & set(method["partial"])) == 1,
        "!has(self.partial) || [has(self.partial.lastLayers), has(self.partial.layers), "
        "has(self.partial.parameters)].filter(written, written).size() == 1",
        "write exactly one of lastLayers, layers and parameters",
        accepts={"type": "Partial", "partial": {"layers": [0, 1]}},
        refuses={"type": "Partial", "partial": {"layers": [0], "parameters": ["*.bias"]}},
    ),
    Rule(
        "spec.method", "quantization",
        lambda method: _method_type(method) not in _IN_PLACE or method.get("quantization", "none") == "none",
        "!has(self.type) || !(self.type in ['Full', 'Partial']) || !has(self.quantization) || "
        "self.quantization == 'none'",
        "Full and Partial train the base weights themselves, which 8 or 4 bits can't follow: leave quantization out, "
        "or choose LoRA, DoRA or Additive",
        accepts={"type": "Additive", "quantization": "nf4"}, refuses={"type": "Full", "quantization": "nf4"},
    ),
    Rule(
        "spec.method", "lora.initialization",
        _initialization_fits,
        "!has(self.lora) || !has(self.lora.initialization) || self.lora.initialization == 'default' || "
        "(has(self.quantization) ? self.quantization : 'none') == "
        "(self.lora.initialization == 'pissa' ? 'none' : 'nf4')",
        "pissa takes its values out of weights that are not quantized (quantization: none), and loftq makes up for the "
        "error of quantization: nf4; change one of the two",
        accepts={"quantization": "nf4", "lora": {"initialization": "loftq"}},
        refuses={"quantization": "nf4", "lora": {"initialization": "pissa"}},
    ),
    _technique_rule("virtualTokens", _VIRTUAL_TOKENS, "IA3", 8),
    _technique_rule("bottleneckSize", {"Bottleneck"}, "IA3", 16),
    _technique_rule("targetModules", {"IA3"}, "Bottleneck", ["k_proj"]),
    Rule(
        "spec", "training.gradientCheckpointing",
        lambda spec: _technique(spec.get("method", {})) != "PrefixTuning"
        or spec.get("training", {}).get("gradientCheckpointing") != "enabled",
        "!has(self.method) || !has(self.method.additive) || !has(self.method.additive.technique) || "
        "self.method.additive.technique != 'PrefixTuning' || !has(self.training) || "
        "!has(self.training.gradientCheckpointing) || self.training.gradientCheckpointing != 'enabled'",
        "a trained prefix is lost where activations are recomputed: leave gradientCheckpointing out",
        accepts={"method": {"type": "Additive", "additive": {"technique": "PromptTuning"}},
                 "training": {"gradientCheckpointing": "enabled"}},
        refuses={"method": {"type": "Additive", "additive": {"technique": "PrefixTuning"}},
                 "training": {"gradientCheckpointing": "enabled"}},
    ),
    Rule(
        "spec", "output.exports",
        lambda spec: "merged" not in spec["output"].get("exports", ()) or not _nothing_to_merge(spec.get("method", {})),
        "!has(self.output.exports) || !self.output.exports.exists(e, e == 'merged') || !has(self.method) || "
        "!has(self.method.type) || self.method.type != 'Full' && (self.method.type != 'Additive' || "
        "!has(self.method.additive) || !has(self.method.additive.technique) || "
        "self.method.additive.technique == 'IA3') && (!has(self.method.reft) || "
        "self.method.reft.policy != 'Full')",
        "there is nothing to merge: Full publishes a whole model already, and virtual tokens and bottlenecks are no "
        "change of the base's weights; leave merged out",
        accepts={"method": {"type": "Additive", "additive": {"technique": "IA3"}}, "output": {"exports": ["merged"]}},
        refuses={"method": {"type": "Full"}, "output": {"exports": ["merged"]}},
    ),
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
