"""A model whose weights, gradients and optimizer state are divided among two processes."""

import json

import pytest
import torch
from finetune_trainer.distributed.sharding import is_torch_adamw_state, unfreeze

from tests.models import save_tiny_model
from tests.s3 import free_ports
from tests.trainer.pods import TRAINING, Pods, configure, configured_workshop, run_pods, weights
from tests.trainer.runs import MORE_METHODS, PROCESSES
from tests.trainer.shards import counting_pod, train_in_bfloat16

FULL = MORE_METHODS["Full"]


def _assert_close(one, other):
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-4, atol=1e-5)


def test_each_of_two_processes_holds_half_of_weights_gradients_and_optimizer_state(tmp_path):
    one, two = (configured_workshop(tmp_path / name, method=FULL) for name in ("one", "two"))
    run_pods(one, ("",), child=counting_pod)
    run_pods(two, child=counting_pod)
    alone, *halves = [json.loads(path.read_text()) for path in (one / "log-0.json", two / "log-0.json",
                                                                two / "log-1.json")]
    assert alone["weights"] == alone["gradients"], "float32 both"
    for half in halves:
        for name in ("weights", "gradients", "optimizer"):
            assert half[name] == pytest.approx(alone[name] / 2, rel=0.02), name
        # Nothing else keeps the whole model, or a copy of anything.
        assert half["everything"] < 0.55 * alone["everything"]
    assert halves[0]["weights"] + halves[1]["weights"] == pytest.approx(alone["weights"], rel=0.02)


def test_a_head_tied_to_the_embeddings_and_recomputed_activations_train_as_in_one_process(tmp_path):
    sections = {"method": FULL, "training": {**TRAINING["training"], "packing": False,
                                             "gradientCheckpointing": "enabled"}}
    one, two = (configured_workshop(tmp_path / name, **sections) for name in ("one", "two"))
    for folder in (one, two):
        save_tiny_model(folder / "model", tied=True)
    run_pods(one, ("",))
    run_pods(two)
    assert "lm_head.weight" not in weights(one)
    _assert_close(weights(one), weights(two))


@pytest.mark.parametrize("before", [1, 2])
def test_a_checkpoint_of_one_process_is_taken_up_by_two_and_the_other_way_round(tmp_path, before):
    straight, killed = (configured_workshop(tmp_path / name, method=FULL) for name in ("straight", "killed"))
    run_pods(straight, ("",))
    Pods(killed, ("kill:checkpointed-4", "")[:before]).wait()
    configure(killed, attempt=2, method=FULL)
    ended = run_pods(killed, ("", "")[:3 - before])
    assert "resuming from step 4 of 6" in ended[0].output
    _assert_close(weights(straight), weights(killed))


def test_where_there_is_bfloat16_it_is_computed_with_and_kept_is_float32(tmp_path):
    save_tiny_model(tmp_path / "model")
    (port,) = free_ports(1)
    processes = [PROCESSES.Process(target=train_in_bfloat16, args=(rank, port, tmp_path)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    first, second = (json.loads((tmp_path / f"seen-{rank}.json").read_text()) for rank in range(2))
    for seen in (first, second):
        assert (seen["computed"], seen["kept"]) == (["torch.bfloat16"], ["torch.float32"])
        assert seen["losses"][-1] < seen["losses"][0]
    # The model that is put together is the one that was trained.
    assert first["whole"] < first["losses"][-1] + 0.01


def test_the_state_of_an_8_bit_optimizer_is_told_from_that_of_torch(tmp_path):
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([parameter])
    parameter.sum().backward()
    optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "torch.pt")
    torch.save({"state": {0: {"step": 1, "state1": torch.ones(2)}}, "param_groups": []}, tmp_path / "eight.pt")
    assert is_torch_adamw_state(tmp_path / "torch.pt")
    assert not is_torch_adamw_state(tmp_path / "eight.pt")


def test_trained_parameters_come_back_to_their_own_types_and_buffers_are_not_rounded(tiny_model_folder):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder, dtype=torch.bfloat16)
    kept = model.model.norm.weight
    kept.data = kept.data.float()
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    round_back = unfreeze(list(model.parameters()))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    round_back()
    assert [name for name, parameter in model.named_parameters() if parameter.dtype is torch.float32] == [
        "model.norm.weight"]
    frequencies = buffers["model.rotary_emb.inv_freq"]
    assert (frequencies.bfloat16().float() != frequencies).any(), "else this test shows nothing"
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in model.named_buffers())
