"""Several processes that train together: two pods over Gloo on this machine, the same job, one result."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
import urllib.request
from decimal import Decimal

import pytest
import torch
from finetune_api.messages import Accelerator, Limits, Outcome, Result
from finetune_api.spec.compute import ComputeSpec
from finetune_trainer.clock import SystemClock
from finetune_trainer.data.batches.steps import Layout, lay_out
from finetune_trainer.distributed.rank import RankInfo, rank_info, rank_variables
from finetune_trainer.distributed.rendezvous import connect
from finetune_trainer.errors import BadConfig, PeerFailure, StopRequested
from finetune_trainer.progress.stopping import StopFlag
from finetune_trainer.run.launcher import Child, ChildEnd, decisive_child, launch, processes_here, run_children

from tests.models import write_rows
from tests.s3 import free_ports
from tests.trainer.pods import TRAINING, Pods, configure, configured_workshop, digest, home, run_pods, weights
from tests.trainer.runs import METHODS, MORE_METHODS, RunningPod


@pytest.mark.parametrize(("method", "packing"), [
    ("LoRA", True), ("LoRA", False), ("QDoRA", True), ("Full", True), ("last layer", True), ("PiSSA, rslora", True),
    ("LoRA+", True), ("prompt tuning", False), ("prefix tuning nf4", False), ("bottleneck nf4", True), ("IA3", True)])
def test_two_processes_train_the_adapter_that_one_does_and_publish_it_once(tmp_path, method, packing):
    changed = {**METHODS, **MORE_METHODS}[method]
    if method == "LoRA":
        changed = {**changed, "lora": {**changed["lora"], "dropout": 0}}
    sections = {"training": {**TRAINING["training"], "packing": packing}, "method": changed}
    one, two = configured_workshop(tmp_path / "one", **sections), configured_workshop(tmp_path / "two", **sections)
    run_pods(one, ("",))
    helped = run_pods(two)[1]
    assert not (two / "termination-1").exists(), "only rank 0 has a result"
    assert "evaluating after" not in helped.output
    assert Result.model_validate_json((two / "termination-0").read_bytes()).outcome is Outcome.SUCCEEDED
    single, double = weights(one), weights(two)
    assert single.keys() == double.keys()
    for name in single:
        torch.testing.assert_close(double[name], single[name], rtol=1e-4, atol=1e-5)
    steps = [[json.loads(line) for line in (home(folder) / "results/1/metrics.jsonl").read_text().splitlines()]
             for folder in (one, two)]
    for mine, other in zip(*([line for line in lines if "step" in line] for lines in steps), strict=True):
        assert mine["tokens"] == other["tokens"]
        assert mine["loss"] == pytest.approx(other["loss"], rel=1e-5)
        assert mine["gradNorm"] == pytest.approx(other["gradNorm"], rel=1e-3)


# Of a model that is trained whole each process holds a part alone.
SHARED = pytest.mark.parametrize("method", [METHODS["LoRA"], MORE_METHODS["Full"]], ids=["LoRA", "Full"])


@SHARED
def test_when_either_process_is_killed_the_other_says_so_and_a_resumed_run_is_the_same_to_the_bit(tmp_path, method):
    # Steps enough for the first upload, which goes on beside them, to end before training does.
    sections = {"training": {**TRAINING["training"], "maxSteps": 30}, "method": method}
    straight, killed = (configured_workshop(tmp_path / name, **sections) for name in ("straight", "killed"))
    run_pods(straight)
    # Both die in the middle of a step. A process that dies while it only uploads can outlive the other's training,
    # which then succeeds.
    for faults in ("", "kill:step-2"), ("kill-after:checkpointed-2", ""):
        ended = Pods(killed, faults).wait()
        survivor = faults.index("")
        assert ended[1 - survivor].code == -signal.SIGKILL, ended[1 - survivor].output
        assert ended[survivor].code == 1, ended[survivor].output
        message = Result.model_validate_json((killed / f"termination-{survivor}").read_bytes()).message
        assert message == (f"rank {survivor} of 2 processes lost the connection to another one: that process ended, or "
                           "the network failed. Read the last message of that process")
        assert "Traceback" not in ended[survivor].output
    configure(killed, attempt=3, **sections)
    for run in run_pods(killed):
        assert re.search("resuming from step [0-9]+ of 30", run.output)
    # Dropout is on: every process begins a step with random states that follow from the seed, the step and its rank.
    assert digest(killed) == digest(straight)


@SHARED
def test_all_processes_stop_after_the_same_share_and_a_second_attempt_trains_no_step_more(tmp_path, method):
    sections = {"method": method, "runPolicy": {"stopAfter": 0.34}}
    folder = configured_workshop(tmp_path, **sections)
    assert Pods(folder, ("kill:trained", "")).wait()[0].code == -signal.SIGKILL
    configure(folder, attempt=2, **sections)
    run_pods(folder)
    result = Result.model_validate_json((folder / "termination-0").read_bytes())
    assert (result.outcome, result.step, result.resumed_from_step) == (Outcome.STOPPED_EARLY, 2, 2)


@SHARED
def test_sigterm_to_one_process_checkpoints_and_ends_both_with_75(tmp_path, method):
    sections = {"training": {**TRAINING["training"], "maxSteps": 50, "checkpointEvery": 40}, "method": method}
    straight, stopped = (configured_workshop(tmp_path / name, **sections) for name in ("straight", "stopped"))
    run_pods(straight)
    ports = free_ports(2)
    pods = Pods(stopped, ports=ports)
    # The second process serves its progress too: the operator may ask any pod.
    pods.running[0].until(ports[1], lambda message: message.get("progress", {}).get("step", 0) >= 3)
    pods.running[1].process.terminate()
    for run in pods.wait():
        assert run.code == 75, run.output
        assert "the checkpoint of that step is in the output" in run.output
    configure(stopped, attempt=2, **sections)
    assert "resuming from step" in run_pods(stopped)[0].output
    assert digest(stopped) == digest(straight)


def test_sigterm_is_heard_while_the_first_process_is_awaited(tmp_path):
    folder = configured_workshop(tmp_path)
    (port,) = free_ports(1)
    pods = Pods(folder, faults=("", "kill:nowhere"), ports=(0, port))
    pods.running[0].process.kill()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/progress", timeout=5).close()
            break
        except OSError:
            pods.running[1].process.join(0.1)
    pods.running[1].process.terminate()
    # The first was killed, perhaps before it had a log.
    ended = pods.running[1].wait()
    assert ended.code == 75, ended.output
    assert "stopped by SIGTERM" in ended.output


def test_processes_that_see_other_data_end_with_a_sentence(tmp_path):
    folder = configured_workshop(tmp_path)
    write_rows(folder / "other.jsonl", seed=1)
    other = configure(folder, name="other", dataset={"source": f"file://{folder}/other.jsonl"})
    for run in Pods(folder, configs=[folder / "config", other]).wait():
        assert run.code == 1, run.output
        assert "the processes of this job read different values of: job (here " in run.output
        assert "data (here " in run.output
        assert "newest checkpoint" not in run.output


def test_memory_trouble_in_one_process_ends_it_with_71_since_the_others_cannot_go_back(tmp_path):
    ended = Pods(configured_workshop(tmp_path), ("", "oom:1")).wait()
    assert [run.code for run in ended] == [1, 71], ended
    assert "2 rows per forward pass do not fit into the accelerator's memory. Lower microBatchSize" in \
        ended[1].output


def test_a_loss_that_is_nan_in_one_process_ends_all_with_70(tmp_path):
    for run in Pods(configured_workshop(tmp_path), ("", "nan:3")).wait():
        assert run.code == 70, run.output
        assert "the loss of step 3 is nan" in run.output


def test_rows_that_cannot_be_shared_equally_end_with_64_before_anything_is_loaded(tmp_path):
    folder = configured_workshop(tmp_path)
    pod = RunningPod(folder / "log.txt", ["run", "--config", str(folder / "config"), "--port", "0"],
                     {"RANK": "1", "WORLD_SIZE": "3", "LOCAL_RANK": "0"}).wait(60)
    assert pod.code == 64, pod.output
    assert "batchSize is 8; it must be a multiple of the 3 processes that train" in pod.output


@pytest.mark.parametrize(("rank", "words"), [
    (0, "only 1 of 2 processes reached the barrier 'start' in time"),
    (1, "rank 0 of this job does not answer at 127.0.0.1:"),
])
def test_processes_that_do_not_find_each_other_say_so(rank, words):
    variables = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_ports(1)[0])}
    with pytest.raises(PeerFailure, match=words):
        connect(variables, RankInfo(rank, 2), 0.2, lambda: None, SystemClock())
    stop = StopFlag()
    stop.set("SIGTERM")
    with pytest.raises(StopRequested):
        connect({**variables, "MASTER_PORT": str(free_ports(1)[0])}, RankInfo(rank, 2), 60, stop.check, SystemClock())


POD = {"FINETUNE_NODES": "2", "FINETUNE_RENDEZVOUS": "tiny-1-0.tiny-1:29400", "JOB_COMPLETION_INDEX": "1"}


@pytest.mark.parametrize(("environment", "processes", "local_rank", "rank", "address"), [
    (POD, 1, 0, RankInfo(1, 2, 0), "tiny-1-0.tiny-1:29400"),
    (POD, 4, 3, RankInfo(7, 8, 3), "tiny-1-0.tiny-1:29400"),
    ({}, 2, 1, RankInfo(1, 2, 1), "127.0.0.1:1234"),
    ({"JOB_COMPLETION_INDEX": "0"}, 1, 0, RankInfo(0, 1, 0), None),
], ids=["one a node", "four a node", "one node", "alone"])
def test_the_rank_follows_from_the_variables_that_the_operator_sets(environment, processes, local_rank, rank, address):
    variables = rank_variables(environment, processes, local_rank, port=1234)
    assert rank_info(variables) == rank
    assert (f"{variables['MASTER_ADDR']}:{variables['MASTER_PORT']}" if variables else None) == address


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("processes", [1, 2, 4])
def test_processes_share_a_step_in_as_many_passes_each(packing, processes):
    chance = random.Random(0)
    lengths = [chance.choice((5, 9, 20, 70)) for _ in range(16)]
    layout = Layout(3, packing, hidden_size=64, processes=processes)
    batches = lay_out(range(16), lengths, layout)
    shares = [batches[rank::processes] for rank in range(processes)]
    assert {len(share) for share in shares} == {layout.micro_batches(16)}
    assert sorted(index for share in shares for lines in share for line in lines for index in line) == list(range(16))
    assert all(0 < sum(len(line) for line in lines) <= 3 for lines in batches)


@pytest.mark.parametrize(("codes", "failed", "number"), [
    ([0, 0], False, 0),
    ([0, 65], True, 1),
    ([1, 65], True, 1),
    ([75, 65], True, 1),
    ([1, 71], True, 1),
    ([1, 75], False, 1),
    ([75, 1], True, 1),
    ([137, 1], True, 0),
    ([75, 137], True, 1),
    ([137, 75], False, 1),
    ([0, 75], False, 1),
    ([70, 70], True, 0),
])
def test_the_exit_code_that_tells_most_wins(codes, failed, number):
    assert decisive_child(codes, failed) == number


STUBBORN = "import signal, time; signal.signal(15, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)"
OBEDIENT = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(75)); time.sleep(60)"


ORPHAN = """
from finetune_trainer.progress.stopping import StopFlag
stop = StopFlag()
stop.listen()
print("ready", flush=True)
stop._event.wait(60)
stop.check()
"""
LAUNCHER = f"""
import os, sys
from finetune_trainer.clock import SystemClock
from finetune_trainer.progress.stopping import StopFlag
from finetune_trainer.run.launcher import Child, launch
launch([Child([sys.executable, "-c", {ORPHAN!r}], dict(os.environ))], StopFlag(), SystemClock())
"""


def test_children_of_a_launcher_that_is_killed_stop_as_well():
    with subprocess.Popen([sys.executable, "-c", LAUNCHER], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True) as launcher:
        assert launcher.stdout.readline() == "ready\n"
        launcher.kill()
        rest = launcher.stdout.read()  # Until the child has ended too.
    assert "StopRequested: stopped by the end of the process that started it" in rest


def _launch(programs, stop=None, grace=60.0):
    started = time.monotonic()
    told = launch([Child([sys.executable, "-c", program], os.environ) for program in programs], stop or StopFlag(),
                  SystemClock(), grace)
    assert time.monotonic() - started < 30
    return told


def test_when_one_process_fails_the_others_are_asked_to_stop_and_its_code_is_told():
    assert _launch([OBEDIENT, "raise SystemExit(65)"]) == ChildEnd(1, 65)
    assert _launch([OBEDIENT, "import time; time.sleep(1); raise SystemExit(1)"]) == ChildEnd(1, 1)


def test_a_process_that_does_not_hear_is_killed_after_the_grace():
    dies = "import os, time; time.sleep(1); os.kill(os.getpid(), 11)"
    assert _launch([STUBBORN, dies], grace=0.5) == ChildEnd(0, 137)
    assert _launch([STUBBORN, "import time; time.sleep(1); raise SystemExit(71)"], grace=0.5) == ChildEnd(1, 71)


def test_a_request_to_stop_is_passed_on():
    stop = StopFlag()
    stop.set("SIGTERM")
    slow = "import time; time.sleep(0.5)"
    assert _launch([slow, slow], stop) == ChildEnd(0, 75)


def test_the_launcher_runs_a_trainer_per_process_and_keeps_the_first_ones_message(tmp_path, monkeypatch):
    folder = configured_workshop(tmp_path)
    limits = folder / "limits"
    limits.mkdir()
    (limits / "limits.json").write_text(Limits(stop=True).model_dump_json())
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, message = run_children(
        ["run", "--config", str(folder / "config"), "--limits", str(limits), "--port", str(free_ports(1)[0])], 2,
        StopFlag(), SystemClock())
    assert code == 0
    result = Result.model_validate_json(message)
    assert (result.outcome, result.step) == (Outcome.STOPPED_EARLY, 1)
    assert "it was asked to stop and publish" in result.message


CPU = Accelerator(name="cpu", hourly_rate=Decimal(0))


@pytest.mark.parametrize(("wanted", "found", "processes"), [(1, 8, 1), (4, 4, 4), (2, 8, 2), (4, 0, 1)])
def test_a_node_runs_a_process_per_gpu(monkeypatch, wanted, found, processes):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: found)
    assert processes_here(ComputeSpec(gpus_per_node=wanted), CPU) == processes


def test_a_node_with_fewer_gpus_than_the_job_asks_for_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(BadConfig, match="gpusPerNode is 4; this machine has 2 GPUs"):
        processes_here(ComputeSpec(gpus_per_node=4), CPU)
