"""ReFT in two processes over Gloo: they sample a share each, and learn as one would."""

import multiprocessing
import random
import signal
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from finetune_api.messages import Outcome, Result
from finetune_api.methods.reft import PpoSpec
from finetune_api.rules import merge_patch
from finetune_trainer.distributed.collectives import World
from finetune_trainer.distributed.rank import RankInfo
from finetune_trainer.hardware.device import Device
from finetune_trainer.methods.reft.micro_batches import MicroBatchLimits
from finetune_trainer.methods.reft.policy import Policy
from finetune_trainer.methods.reft.trajectory import Learner, make_trajectory
from finetune_trainer.methods.reft.update import update
from safetensors.torch import load_file, save_file

from tests.s3 import free_ports
from tests.trainer.pods import Pods, configure, configured_workshop, digest, run_pods
from tests.trainer.test_reft_run import DATA, PPO, REFT

SECTIONS = {"method": REFT, "dataset": DATA, "training": {"batchSize": 8, "maxSteps": 2, "checkpointEvery": 1}}
CPU = Device(torch.device("cpu"), torch.float32)
RESPONSES = [((5, 6, 7), (8, 9)), ((10, 11, 12, 13), (16, 17, 18, 19)), ((20,), (21,)), ((30, 31), (32, 33, 34)),
             ((40,), (41, 42, 43, 44, 45)), ((50, 51), (52,)), ((60,), (61, 62)), ((70, 71, 72), (73, 74))]
SCORES = [1.0, 0.1, 0.0, 1.0, 0.0, 0.1, 1.0, 0.0]


def _learn(model_folder, target, rank, size, port):
    """Learn from this process's share of the responses; the first one writes what came of it."""
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    if size > 1:
        dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=size,
                                timeout=timedelta(seconds=60))
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    policy = Policy(model, pad_id=0, temperature=1.0, device=CPU)
    optimizer = policy.optimizer(1e-3, 1e-3)
    ppo = PpoSpec(rollouts=8, mini_batch_size=8, kl_coefficient=0.05)
    learner = Learner(policy, ppo, MicroBatchLimits(8192, None), World(RankInfo(rank, size)))
    trajectory = make_trajectory(learner, RESPONSES[rank::size], SCORES[rank::size], lambda: None)
    update(learner, optimizer, trajectory, random.Random(rank), lambda: None)
    if rank == 0:
        save_file(policy.weights(), target)


def test_two_processes_learn_from_given_responses_what_one_does(tmp_path, tiny_model_folder):
    processes = multiprocessing.get_context("spawn")
    found = []
    for size in (1, 2):
        target = tmp_path / f"{size}.safetensors"
        (port,) = free_ports(1)
        running = [processes.Process(target=_learn, args=(tiny_model_folder, target, rank, size, port))
                   for rank in range(size)]
        for process in running:
            process.start()
        for process in running:
            process.join(120)
            assert process.exitcode == 0
        found.append(load_file(target))
    start = load_file(tiny_model_folder / "model.safetensors")
    single, double = found
    moved = 0.0
    for name in single:
        torch.testing.assert_close(double[name], single[name], rtol=1e-4, atol=2e-5)
        moved = max(moved, float((single[name] - start[name]).abs().max()) if name in start else 0.0)
    assert moved > 1e-3, "nothing was learnt"


@pytest.mark.parametrize("policy", ["LoRA", "Full"])
def test_a_pod_that_is_killed_in_ppo_ends_both_and_the_resumed_job_is_the_same_to_the_bit(tmp_path, policy):
    adapter = {} if policy == "LoRA" else {"reft": {"policy": policy, "lora": None}}
    sections = {**SECTIONS, "method": merge_patch(REFT, adapter)}
    straight, killed = (configured_workshop(tmp_path / name, **sections) for name in ("straight", "killed"))
    run_pods(straight)
    assert Result.model_validate_json((straight / "termination-0").read_bytes()).outcome is Outcome.SUCCEEDED
    ended = Pods(killed, ("", "kill:step-4")).wait()
    assert [run.code for run in ended] == [1, -signal.SIGKILL], ended[0].output
    configure(killed, attempt=2, **sections)
    for run in run_pods(killed):
        assert "resuming from step 3 of 5" in run.output
    assert digest(killed) == digest(straight)


def test_sigterm_to_one_process_in_ppo_ends_both_with_75_and_the_next_attempt_is_the_same(tmp_path):
    ppo = {**PPO, "steps": 19, "checkpointEvery": 100}
    sections = {**SECTIONS, "method": merge_patch(REFT, {"reft": {"ppo": ppo}})}
    straight, stopped = (configured_workshop(tmp_path / name, **sections) for name in ("straight", "stopped"))
    run_pods(straight)
    ports = free_ports(2)
    pods = Pods(stopped, ports=ports)
    pods.running[0].until(ports[0], lambda message: "rollouts" in message.get("progress", {}))
    pods.running[1].process.terminate()
    for run in pods.wait():
        assert run.code == 75, run.output
        assert "the checkpoint of that step is in the output" in run.output
    configure(stopped, attempt=2, **sections)
    assert "resuming from step" in run_pods(stopped)[0].output
    assert digest(stopped) == digest(straight)


def test_responses_that_cannot_be_shared_equally_end_with_64(tmp_path):
    sections = {**SECTIONS, "method": merge_patch(REFT, {"reft": {"ppo": {"rollouts": 9, "miniBatchSize": 3}}})}
    for run in Pods(configured_workshop(tmp_path, **sections)).wait():
        assert run.code == 64, run.output
        assert "ppo.miniBatchSize is 3; it must be a multiple of the 2 processes that train" in run.output
