"""How many rows the first forward passes get. The GPU is a stand-in: its memory is all that is asked of it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from finetune_api import parse_job, resolve_defaults
from finetune_trainer.data.rows import TokenRow
from finetune_trainer.errors import OutOfMemory
from finetune_trainer.hardware.device import Device
from finetune_trainer.training.micro_batch import MicroBatch, first_micro_batch, next_micro_batch
from transformers import GPT2Config, MistralConfig

from tests.models import tiny_job

GPU = Device(torch.device("cuda", 0), torch.bfloat16)
CPU = Device(torch.device("cpu"), torch.float32)


def run(tmp_path, device, config=None, length=1024, **training):
    """As much of a training run as the choice looks at, on Mistral-7B by default."""
    spec = resolve_defaults(parse_job(tiny_job(tmp_path, training={
        "batchSize": 16, "microBatchSize": None, "maxLength": 1024, **training})).spec)
    rows = (TokenRow(tuple(range(length - 8)), tuple(range(8))),) * 16
    model = SimpleNamespace(config=config or MistralConfig(num_key_value_heads=8, head_dim=128))
    return SimpleNamespace(spec=spec, device=device, data=SimpleNamespace(train=rows), model=model, by_rows=True,
                           identity=SimpleNamespace(environment={}),
                           world=SimpleNamespace(size=1))


@pytest.fixture
def gpu_memory(monkeypatch):
    """Sets the memory of the GPU that is not there, in GiB."""
    def has(gib):
        monkeypatch.setattr(torch.cuda, "get_device_properties",
                            lambda device: SimpleNamespace(total_memory=gib * 2**30))
    return has


def test_more_memory_means_fewer_checkpointed_layers(tmp_path, gpu_memory):
    seen = []
    for gib in (17, 18, 24, 80):
        gpu_memory(gib)
        seen.append(first_micro_batch(run(tmp_path, GPU)))
    assert [one.rows for one in seen] == [1, 1, 1, 8]
    assert 32 > seen[0].checkpointed_layers > seen[1].checkpointed_layers > seen[2].checkpointed_layers == 0
    assert seen[-1].checkpointed_layers == 0


def test_what_the_job_writes_is_taken(tmp_path, gpu_memory):
    gpu_memory(24)
    assert first_micro_batch(run(tmp_path, GPU, microBatchSize=2, gradientCheckpointing="enabled")) == (2, 32)


def test_a_model_of_an_unknown_family_gets_a_full_pass_with_checkpointing(tmp_path, gpu_memory):
    gpu_memory(24)
    assert first_micro_batch(run(tmp_path, GPU, GPT2Config())) == (16, 12)


@pytest.mark.parametrize(("length", "rows"), [(64, 4), (1024, 1)])
def test_a_cpu_gets_small_passes_without_checkpointing(tmp_path, length, rows):
    assert first_micro_batch(run(tmp_path, CPU, length=length)) == (rows, 0)


def _after(tmp_path, current, device=GPU, processes=1, **training):
    asked, notes = run(tmp_path, device, **training), []
    asked.world.size, asked.state = processes, SimpleNamespace(note=notes.append)
    return next_micro_batch(asked, MicroBatch(*current)), notes


def test_after_an_oom_all_layers_are_checkpointed_first_and_then_half_the_rows(tmp_path):
    for layers in (0, 6):
        assert _after(tmp_path, (8, layers)) == (
            (8, 32), ["out of accelerator memory: training continues with gradient checkpointing in all layers"])
    assert _after(tmp_path, (8, 32))[0] == (4, 32)
    assert _after(tmp_path, (8, 0), gradientCheckpointing="disabled")[0] == (4, 0)
    assert _after(tmp_path, (3, 0), CPU)[0] == (1, 0)


@pytest.mark.parametrize(("current", "processes", "words"), [
    ((1, 32), 1, "spec.training.maxLength: a single row does not fit into the accelerator's memory. Lower maxLength"),
    ((4, 0), 2, "spec.training.microBatchSize: 4 rows per forward pass do not fit into the accelerator's memory"),
])
def test_when_nothing_smaller_can_be_tried_the_error_names_the_field_to_change(tmp_path, current, processes, words):
    with pytest.raises(OutOfMemory, match=words):
        _after(tmp_path, current, processes=processes)
