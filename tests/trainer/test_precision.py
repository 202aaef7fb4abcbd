"""One type of computation in a whole run: training, evaluations, roll-outs and scoring compute in the device's type.

There is no GPU here. A CPU's device that computes in bfloat16 stands for one; accelerate trains on it by autocast as it
does on a GPU.
"""

from collections import Counter, defaultdict

import pytest
import torch
from finetune_api.rules import merge_patch
from finetune_trainer.hardware.device import Device
from finetune_trainer.progress.state import RunState
from finetune_trainer.run.attempt import loading

from tests.trainer.runs import DORA, LORA, MORE_METHODS, workshop
from tests.trainer.test_families import run_here
from tests.trainer.test_reft_run import DATA, FINAL_ANSWER, REFT, VARIANTS

METHODS = {
    "LoRA": LORA, "DoRA": DORA, **{name: MORE_METHODS[name] for name in ("Full", "last layer", "prefix tuning")},
    **{f"ReFT {policy}": {**merge_patch(merge_patch(REFT, VARIANTS[policy]), FINAL_ANSWER["method"]), "lora": None}
       for policy in ("LoRA", "DoRA", "Full")},
}


@pytest.fixture
def linear_types(monkeypatch):
    """How many passes of linear layers of the model had each type of output, by stage."""
    types = defaultdict(Counter)
    stage = [""]
    enter = RunState.enter

    def entered(self, new):
        stage[0] = str(new)
        return enter(self, new)

    def seen(module, arguments, output):
        # The value head of PPO is one number a token, in float32.
        if isinstance(module, torch.nn.Linear) and module.out_features > 1:
            types[stage[0]][output.dtype] += 1

    monkeypatch.setattr(RunState, "enter", entered)
    handle = torch.nn.modules.module.register_module_forward_hook(seen)
    yield types
    handle.remove()


@pytest.mark.parametrize(("method", "dtype"), [*((method, torch.bfloat16) for method in METHODS),
                                               ("ReFT LoRA", torch.float32)])
def test_every_forward_pass_of_a_run_computes_in_the_type_of_the_device(tmp_path, monkeypatch, linear_types, method,
                                                                        dtype):
    device = Device(torch.device("cpu"), dtype)
    monkeypatch.setattr(loading, "choose_device", lambda *_, **__: device)
    reft = {"dataset": DATA} if "reft" in METHODS[method] else {}
    run_here(workshop(tmp_path, rows=16), method=METHODS[method], training={"maxSteps": 2}, evaluation={"samples": 2},
             **reft)
    stages = {"evaluating before", "evaluating after", *(("warming up", "PPO") if reft else ("training",))}
    assert stages <= set(linear_types), set(linear_types)
    assert {stage: set(linear_types[stage]) for stage in stages} == {stage: {dtype} for stage in stages}
