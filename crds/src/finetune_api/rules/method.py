"""What joins the method, its settings and the engine."""

from __future__ import annotations

from finetune_api.rules.rule import Rule, Section

_TYPES = {"LoRA", "DoRA", "ReFT", "Partial", "Additive", "Full"}
_TRAINED = {"LoRA", "DoRA"}


def _method_type(method: Section) -> str:
    written: str = method.get("type", "LoRA")
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
        "!has(self.type) || self.type in ['LoRA', 'DoRA']",
        "this version trains LoRA and DoRA; write one of them",
        accepts={"type": "DoRA"}, refuses={"type": "Full"},
    ),
    _block_rule("lora", "LoRA", "DoRA"),
    _block_rule("dora", "DoRA", "LoRA"),
    Rule(
        "spec", "engine",
        lambda spec: spec.get("engine", "native") == "native",
        "!has(self.engine) || self.engine == 'native'",
        "this version has the native engine only; leave engine out",
        accepts={"engine": "native"}, refuses={"engine": "unsloth"},
    ),
)
