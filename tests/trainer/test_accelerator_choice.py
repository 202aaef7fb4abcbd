"""`compute.accelerator: auto`: the choice is by estimated cost, among the accelerators that the job fits on."""

from __future__ import annotations

from decimal import Decimal

import pytest
from finetune_api import parse_job, resolve_defaults
from finetune_api.estimate.catalogue import KNOWN_ACCELERATORS
from finetune_api.messages import Accelerator, RunConfig
from finetune_trainer.errors import BadConfig, OutOfMemory
from finetune_trainer.run.checks.accelerator_choice import choose_accelerator

from tests.models import tiny_job

MISTRAL = {"model_type": "mistral", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
           "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 32000}
CATALOGUE = tuple(Accelerator(name=name, memory_bytes=one.memory_bytes, hourly_rate=one.hourly_price)
                  for name, one in KNOWN_ACCELERATORS.items())
LENGTHS = [512] * 64


def _config(folder, catalogue=CATALOGUE, accelerator="auto", **sections):
    spec = resolve_defaults(parse_job(tiny_job(folder, **{
        "method": {"quantization": "nf4"}, "training": {"maxSteps": 500, "precision": "auto"},
        "compute": {"accelerator": accelerator}, **sections})).spec)
    return RunConfig(namespace="n", name="tiny", uid="u", attempt=1, spec=spec, spec_hash="0" * 64,
                     accelerator=Accelerator(name=accelerator, hourly_rate=Decimal(0)), catalogue=catalogue)


def _choose(*parts, **known):
    return choose_accelerator(_config(*parts, **known), MISTRAL, LENGTHS)


def test_the_lowest_estimated_cost_is_chosen_and_not_the_lowest_price(tmp_path):
    config, choice = _choose(tmp_path)
    assert (choice.name, choice.next_best) == ("nvidia-l4", "nvidia-h100")
    assert min(KNOWN_ACCELERATORS, key=lambda name: KNOWN_ACCELERATORS[name].hourly_price) == "nvidia-t4"
    assert config.spec.compute.accelerator == config.accelerator.name == "nvidia-l4"
    assert "nvidia-l4 has the lowest estimated cost" in choice.reason
    assert "next best is nvidia-h100" in choice.reason


def test_what_the_job_does_not_fit_on_is_not_chosen_and_said(tmp_path):
    _, choice = _choose(tmp_path, method={"type": "Full", "quantization": "none", "lora": None},
                        catalogue=(*CATALOGUE, Accelerator(name="nvidia-h200", memory_bytes=141 * 2**30,
                                                           hourly_rate=Decimal("13.00"))))
    assert (choice.name, choice.next_best) == ("nvidia-h200", None)
    assert choice.reason.endswith(f"the job does not fit on {', '.join(KNOWN_ACCELERATORS)}")


def test_prices_decide(tmp_path):
    cheap = tuple(one.model_copy(update={"hourly_rate": Decimal("0.10")}) if one.name == "nvidia-h100" else one
                  for one in CATALOGUE)
    assert _choose(tmp_path, catalogue=cheap)[1].name == "nvidia-h100"


def test_a_named_accelerator_stays(tmp_path):
    config = _config(tmp_path, accelerator="nvidia-l4")
    assert choose_accelerator(config, MISTRAL, LENGTHS) == (config, None)


def test_where_nothing_fits_the_message_has_the_largest_and_the_cure(tmp_path):
    with pytest.raises(OutOfMemory, match=r"fits on no accelerator of the catalogue \(nvidia-l4.*: write spec\.method"):
        _choose(tmp_path, method={"type": "Full", "quantization": "none", "lora": None})


def test_an_unknown_architecture_is_refused_with_the_names(tmp_path):
    with pytest.raises(BadConfig, match=r"architecture is unknown here.*: write one of nvidia-l4, nvidia-t4"):
        choose_accelerator(_config(tmp_path), {"model_type": "never-heard-of"}, LENGTHS)
