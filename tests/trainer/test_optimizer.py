"""The trainer's optimizer: the one that the memory estimate counts, and what happens when it is another than before."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from finetune_api import parse_job, resolve_defaults
from finetune_trainer.distributed.sharding import is_torch_adamw_state
from finetune_trainer.hardware.device import Device
from finetune_trainer.methods.reft.policy import Policy
from finetune_trainer.training.trl_settings import optimizer_of
from transformers import AutoModelForCausalLM, FalconConfig, FalconForCausalLM, MistralConfig, MistralForCausalLM

from tests.models import tiny_job
from tests.trainer.runs import NO_LORA, Running, _child, partial, workshop

GPU = Device(torch.device("cuda", 0), torch.float32)
CPU = Device(torch.device("cpu"), torch.float32)
LARGE = MistralConfig(vocab_size=1000, hidden_size=2048, intermediate_size=8192, num_hidden_layers=2)
UNKNOWN = FalconConfig(vocab_size=1000, hidden_size=2048, num_hidden_layers=3, num_attention_heads=16)


def training_run(tmp_path, device=GPU, model=LARGE, **sections):
    """As much of a run as the choice looks at. The model exists by its shapes alone; there is no GPU either."""
    spec = resolve_defaults(parse_job(tiny_job(tmp_path, **sections)).spec)
    with torch.device("meta"):
        built = (FalconForCausalLM if model is UNKNOWN else MistralForCausalLM)(model)
    if spec.method.definition.quantizable:
        built.requires_grad_(False)
    return SimpleNamespace(spec=spec, device=device, model=built)


@pytest.mark.parametrize(("case", "sharded", "name"), [
    ({}, False, "adamw_torch_fused"),
    ({"device": CPU}, False, "adamw_torch"),
    ({"method": {"type": "Full", **NO_LORA}}, False, "paged_adamw_8bit"),
    ({"method": {"type": "Full", **NO_LORA}, "device": CPU}, False, "adamw_torch"),
    ({"method": {"type": "Full", **NO_LORA}}, True, "adamw_torch_fused"),
    ({"method": partial(lastLayers=1)}, False, "adamw_torch_fused"),
    # The estimate knows no Falcon: what the model has is counted.
    ({"model": UNKNOWN, "method": {"type": "Full", **NO_LORA}}, False, "paged_adamw_8bit"),
    ({"model": UNKNOWN}, False, "adamw_torch_fused"),
])
def test_the_trainer_takes_the_optimizer_that_the_estimate_counts(tmp_path, case, sharded, name):
    assert optimizer_of(training_run(tmp_path, **case), sharded) == name


def noting_child(eight_bits, job, environment, log, port):
    """A run that writes the learning rate of each step beside its log.

    With `eight_bits` as earlier versions trained adapters on a GPU, but not paged, which needs a GPU.
    """
    from finetune_trainer.training import trl_settings
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    if eight_bits:
        pytest.MonkeyPatch().setattr(trl_settings, "choose_optimizer", lambda *_: "adamw_8bit")
    with log.with_name("rates.txt").open("a") as rates:
        register_optimizer_step_pre_hook(
            lambda optimizer, *_: print(optimizer.param_groups[0]["lr"], file=rates, flush=True))
        _child(job, environment, log, port)


class Noting(Running):
    """A run with `noting_child`."""

    def __init__(self, folder, eight_bits=False, fault=""):
        self.eight_bits = eight_bits
        super().__init__(tiny_job(folder), folder / "log.txt", fault=fault)

    def _start(self, log, child, *arguments):
        super()._start(log, noting_child, self.eight_bits, *arguments)


def test_an_adapter_resumes_from_a_checkpoint_with_the_state_of_an_8_bit_optimizer(tmp_path):
    folder, straight = workshop(tmp_path / "killed"), workshop(tmp_path / "straight")
    killed = Noting(folder, eight_bits=True, fault="kill:checkpointed-4").wait()
    assert killed.code < 0, killed.output
    states = list((folder / "out").rglob("optimizer.pt"))
    assert states
    assert not any(is_torch_adamw_state(state) for state in states), "else this test shows nothing"
    # It may have been killed in a later step.
    (folder / "rates.txt").unlink()
    resumed = Noting(folder).wait()
    assert resumed.code == 0, resumed.output
    assert "resuming from step 4 of 6" in resumed.output
    assert "the checkpoint has the state of another kind of optimizer: the optimizer starts anew" in resumed.output
    assert Noting(straight).wait().code == 0
    rates = [(one / "rates.txt").read_text().split() for one in (folder, straight)]
    assert len(set(rates[1])) > 3
    assert rates[0] == rates[1][4:], "the learning rate goes on where it was"


def test_ppo_trains_with_a_fused_optimizer_on_a_gpu_alone(tiny_model_folder):
    policy = Policy(AutoModelForCausalLM.from_pretrained(tiny_model_folder), 0, 1.0, CPU)
    assert policy.optimizer(1e-3, 1e-3).defaults["fused"] is None
    policy.device = torch.device("cuda", 0)
    assert policy.optimizer(1e-3, 1e-3).defaults["fused"] is True
