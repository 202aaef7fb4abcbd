"""The estimate of a job whose rows are known: what padding costs where the run does not pack rows."""

from __future__ import annotations

from decimal import Decimal

from finetune_api import parse_job, resolve_defaults
from finetune_api.messages import Accelerator, RunConfig
from finetune_trainer.data.batches.steps import Layout
from finetune_trainer.run.checks.job_estimate import estimate_training, padded_tokens
from transformers import LlamaConfig

from tests.models import tiny_job

LLAMA = LlamaConfig(vocab_size=64, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
                    num_key_value_heads=4, architectures=["LlamaForCausalLM"]).to_dict()
LENGTHS = [8, 64] * 8


def _config(folder, **training):
    spec = resolve_defaults(parse_job(tiny_job(folder, training={
        "maxSteps": 2000, "batchSize": 8, "microBatchSize": 8, **training})).spec)
    return RunConfig(namespace="n", name="tiny", uid="u", attempt=1, spec=spec, spec_hash="0" * 64,
                     accelerator=Accelerator(name="cpu", hourly_rate=Decimal("1.00")))


def test_without_packing_the_hours_count_the_padding(tmp_path):
    packed = estimate_training(_config(tmp_path, packing=True), LLAMA, LENGTHS)
    padded = estimate_training(_config(tmp_path, packing=False), LLAMA, LENGTHS)
    assert padded.tokens == packed.tokens, "the tokens of the rows are the same"
    assert padded.hours > 1.2 * packed.hours


def test_rows_of_one_length_need_no_padding(tmp_path):
    config = _config(tmp_path, packing=False)
    assert padded_tokens([16] * 16, config.spec.training, Layout(8, False, 0), 4) == 4 * 8 * 16


def test_padding_grows_with_the_rows_of_a_pass(tmp_path):
    training = _config(tmp_path, packing=False).spec.training
    one, all_of_a_step = (padded_tokens(LENGTHS, training, Layout(rows, False, 0), 2) for rows in (1, 8))
    assert one == sum(LENGTHS), "a row in a pass of its own has no padding"
    assert sum(LENGTHS) < all_of_a_step <= 64 * len(LENGTHS)
