"""Training with gradient checkpointing in the first layers only: the same bits, whichever layers keep activations."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from finetune_api import parse_job, resolve_defaults
from finetune_api.spec.method import Quantization
from finetune_trainer.data.rows import PreparedData, TokenRow
from finetune_trainer.errors import StopRequested
from finetune_trainer.hardware.device import Device, make_deterministic
from finetune_trainer.methods import METHODS
from finetune_trainer.model.files.find import ModelFiles
from finetune_trainer.model.loading.load import load_model
from finetune_trainer.training import sft
from finetune_trainer.training.micro_batch import MicroBatch, next_micro_batch
from finetune_trainer.training.trainer import StepTrainer

from tests.models import save_tiny_model, tiny_job
from tests.trainer.training_runs import training_run

pytestmark = pytest.mark.filterwarnings("ignore:`gradient_checkpointing:FutureWarning")

LAYERS, STEPS = 4, 3
CPU, GPU = (Device(torch.device(name), torch.float32) for name in ("cpu", "cuda"))
METHODS_WITHOUT_NOISE = {
    "LoRA": {"type": "LoRA", "lora": {"rank": 4, "alpha": 8}},
    "QDoRA": {"type": "DoRA", "lora": None, "dora": {"rank": 4, "alpha": 8}, "quantization": "nf4"},
    "Full": {"type": "Full", "lora": None},
    "last layers": {"type": "Partial", "lora": None, "partial": {"lastLayers": 2}},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpointed-layers")
    save_tiny_model(folder / "model", layers=LAYERS)
    return folder


class Watched(StepTrainer):
    """Notes which layers are checkpointed in each micro-batch; fails or stops at the first of a step if told to."""

    flags: list[list[bool]]
    before_step: list

    def training_step(self, *arguments, **words):
        """One micro-batch."""
        model = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        self.flags.append([layer.gradient_checkpointing for layer in model.model.layers])
        for action in self.before_step:
            action(self)
        return super().training_step(*arguments, **words)


@pytest.fixture
def train(folder, monkeypatch):
    """Trains a method with a number of checkpointed layers: the trained parameters, and the layers' flags."""
    def trained(method, checkpointed, store=None, before_step=()):
        make_deterministic(CPU)
        spec = resolve_defaults(parse_job(tiny_job(folder, method=METHODS_WITHOUT_NOISE[method], training={
            "maxSteps": STEPS, "checkpointEvery": 1})).spec)
        Watched.flags, Watched.before_step = [], list(before_step)
        monkeypatch.setattr(sft, "StepTrainer", Watched)
        monkeypatch.setattr(sft, "first_micro_batch", lambda run: MicroBatch(2, checkpointed))
        model = load_model(ModelFiles(folder / "model", ""), Quantization(spec.method.quantization), CPU)
        rows = tuple(TokenRow(tuple(range(20 + row, 40 + 2 * row)), tuple(range(10, 18))) for row in range(8))
        data = PreparedData(train=rows, train_answers=(), held_out=(), findings=(), counts={})
        with training_run(spec, model, data, CPU, folder, store) as run:
            result = METHODS[spec.method.type].train(run)
        values = {name: value.detach() for name, value in result.trained_model.model.named_parameters()
                  if value.requires_grad}
        return result, values, Watched.flags
    return trained


def assert_equal(ours, its):
    assert ours.keys() == its.keys()
    assert all(torch.equal(ours[name], its[name]) for name in its)


@pytest.mark.parametrize("method", METHODS_WITHOUT_NOISE)
def test_layers_that_keep_their_activations_change_no_bit(train, method):
    plain, expected, _ = train(method, 0)
    result, values, flags = train(method, 1)
    assert flags == 2 * STEPS * [[True, False, False, False]]
    assert_equal(values, expected)
    assert (plain.checkpointing, result.checkpointing) == (None, "in 1 of 4 layers")


def test_all_layers_are_checkpointed_if_all_are_counted(train):
    result, values, flags = train("LoRA", LAYERS)
    assert flags == 2 * STEPS * [[True] * LAYERS]
    assert_equal(values, train("LoRA", 0)[1])
    assert result.checkpointing == "in all layers"


def test_after_an_oom_all_layers_are_checkpointed_and_the_result_is_the_same(train, monkeypatch):
    monkeypatch.setattr(sft, "next_micro_batch",
                        lambda run, current: next_micro_batch(replace(run, device=GPU), current))

    def run_out(trainer):
        if trainer.checkpointed_layers < LAYERS and trainer.state.global_step == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")

    result, values, flags = train("LoRA", 2, before_step=[run_out])
    assert flags[0] == [True, True, False, False]
    assert flags[-1] == [True] * LAYERS
    assert result.checkpointing == "in all layers"
    assert_equal(values, train("LoRA", 0)[1])


def test_a_run_resumes_with_another_number_of_checkpointed_layers(train):
    def stop(trainer):
        if trainer.state.global_step == 2:
            trainer._callback._run.stop.set("the test asks for it")

    with pytest.raises(StopRequested):
        train("LoRA", 3, "resumed", [stop])
    result, values, flags = train("LoRA", 1, "resumed")
    assert result.resumed_from_step == 2
    assert flags == 2 * [[True, False, False, False]]
    assert_equal(values, train("LoRA", 0)[1])
