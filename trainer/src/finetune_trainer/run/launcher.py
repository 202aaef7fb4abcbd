"""Starts one child process per GPU of a node. Unlike torchrun it keeps exit codes, which the operator needs."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune_api.exit_codes import ExitCode
from finetune_api.messages import Accelerator
from finetune_api.spec.compute import ComputeSpec

from finetune_trainer.clock import Clock
from finetune_trainer.distributed.rank import rank_variables
from finetune_trainer.errors import BadConfig
from finetune_trainer.hardware.accelerator import require_count
from finetune_trainer.progress.stopping import LAUNCHER_PIPE, StopFlag

GRACE_SECONDS = 120.0
"""How long the other processes may take to end after one failed; a checkpoint may be uploading."""

_POLL_SECONDS = 0.1
_SPECIFIC = set(ExitCode) - {ExitCode.OK, ExitCode.INTERNAL, ExitCode.STOPPED}


@dataclass(frozen=True)
class Child:
    """A process to start: its command, and its whole environment."""

    command: Sequence[str]
    environment: Mapping[str, str]


def processes_here(compute: ComputeSpec, accelerator: Accelerator) -> int:
    """The number of processes of this node: one per GPU, or one without a GPU.

    Raises:
        NoAccelerator: the run was planned for GPUs, and this node has fewer than the job asks for.
        BadConfig: this machine has GPUs, and fewer than the job asks for.
    """
    if compute.gpus_per_node == 1:
        return 1
    import torch

    found = torch.cuda.device_count()
    require_count(accelerator, compute.gpus_per_node, found)
    if 0 < found < compute.gpus_per_node:
        raise BadConfig(f"spec.compute.gpusPerNode is {compute.gpus_per_node}; this machine has {found} GPUs. Lower "
                        "gpusPerNode, or choose a node with more GPUs")
    return compute.gpus_per_node if found else 1


def run_children(arguments: Sequence[str], processes: int, stop: StopFlag, clock: Clock) -> tuple[int, bytes]:
    """Run the trainer once per GPU, and return the exit code that explains the end, with the message of that process.

    Args:
        arguments: the arguments of the trainer's command line.
        processes: the number of processes.
        stop: whether the run was asked to stop; passed on to the children.
        clock: the time.
    """
    port = _free_port()
    threads = str(max(1, len(os.sched_getaffinity(0)) // processes))
    with tempfile.TemporaryDirectory(prefix="finetune-children-") as folder:
        messages = [Path(folder) / str(number) for number in range(processes)]
        end = launch([
            # -P: nothing in the working folder is imported.
            Child([sys.executable, "-P", "-m", "finetune_trainer", *arguments, "--termination-log", str(message)],
                  {"OMP_NUM_THREADS": threads, **os.environ, **rank_variables(os.environ, processes, number, port)})
            for number, message in enumerate(messages)
        ], stop, clock)
        return end.code, messages[end.number].read_bytes() if messages[end.number].exists() else b""


@dataclass(frozen=True)
class ChildEnd:
    """The child whose exit code explains the end of all: its number and that code, 128 + N if signal N killed it."""

    number: int
    code: int


def launch(children: Sequence[Child], stop: StopFlag, clock: Clock, grace: float = GRACE_SECONDS) -> ChildEnd:
    """Run children to their end. If one fails, or the run is asked to stop, the others get SIGTERM.

    After a failure, children that still run `grace` seconds later are killed. After a request to stop they are not: who
    asked has a grace period of its own. If this process is killed, they read the end of a pipe, and stop as well.
    """
    read_end, write_end = os.pipe()
    # A session for each. Otherwise Ctrl-C would reach them twice, and a second request ends a process at once.
    running = [subprocess.Popen(child.command, env={**child.environment, LAUNCHER_PIPE: str(read_end)},
                                start_new_session=True, pass_fds=[read_end]) for child in children]
    asked = failed = False
    deadline = float("inf")
    try:
        while None in (codes := [process.poll() for process in running]):
            bad = [code for code in codes if code]
            if not asked and (stop.is_set or bad):
                asked, failed = True, not stop.is_set and bad[0] != ExitCode.STOPPED
                for process in running:
                    process.terminate()
            if not stop.is_set and deadline == float("inf") and any(code != ExitCode.STOPPED for code in bad):
                deadline = clock.seconds() + grace
            if clock.seconds() > deadline:
                for process in running:
                    process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                running[codes.index(None)].wait(_POLL_SECONDS)
    finally:
        for process in running:
            process.kill()
            process.wait()
        os.close(read_end)
        os.close(write_end)
    ends = [_exit_code(process.returncode, asked) for process in running]
    number = decisive_child(ends, failed)
    return ChildEnd(number, ends[number])


def _exit_code(code: int, asked: bool) -> int:
    if code == -signal.SIGTERM and asked:
        return ExitCode.STOPPED  # It had no handler yet, and so no state to save.
    return code if code >= 0 else 128 - code


def decisive_child(codes: Sequence[int], failed: bool) -> int:
    """The number of the process whose exit code explains the end of all; the first of equal ones.

    Args:
        codes: exit codes in the order of the processes.
        failed: whether the others were asked to stop because one failed. Then a 75 explains nothing.
    """
    def weight(code: int) -> int:
        if code in _SPECIFIC:
            return 0
        weights: dict[int, int] = {ExitCode.STOPPED: 4 if failed else 1, ExitCode.INTERNAL: 3, ExitCode.OK: 5}
        return weights.get(code, 2)

    return min(range(len(codes)), key=lambda number: weight(codes[number]))


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
