"""Rules of `accelerator: auto`: what its choice needs."""

from __future__ import annotations

from finetune_api.rule import Rule, Section
from finetune_api.spec.compute import AUTO

_NAMED = f"!has(self.compute) || !has(self.compute.accelerator) || self.compute.accelerator != '{AUTO}'"


def _chooses(spec: Section) -> bool:
    return bool(spec.get("compute", {}).get("accelerator") == AUTO)


RULES: tuple[Rule, ...] = (
    Rule(
        "spec", "runPolicy.preflight",
        lambda spec: not _chooses(spec) or spec.get("runPolicy", {}).get("preflight") != "Skip",
        f"{_NAMED} || !has(self.runPolicy) || !has(self.runPolicy.preflight) || self.runPolicy.preflight != 'Skip'",
        "compute.accelerator: auto is chosen by the check before the start: remove runPolicy.preflight, or name an "
        "accelerator",
        accepts={"compute": {"accelerator": AUTO}, "runPolicy": {"preflight": "Required"}},
        refuses={"compute": {"accelerator": AUTO}, "runPolicy": {"preflight": "Skip"}},
    ),
    Rule(
        "spec", "budget.hourlyRate",
        lambda spec: not _chooses(spec) or spec.get("budget", {}).get("hourlyRate") is None,
        f"{_NAMED} || !has(self.budget) || !has(self.budget.hourlyRate)",
        "compute.accelerator: auto compares the catalogue's prices: remove budget.hourlyRate, or name an accelerator",
        accepts={"compute": {"accelerator": "nvidia-l4"}, "budget": {"hourlyRate": "0.5"}},
        refuses={"compute": {"accelerator": AUTO}, "budget": {"hourlyRate": "0.5"}},
    ),
)
