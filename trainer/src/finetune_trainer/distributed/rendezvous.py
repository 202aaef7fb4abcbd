"""The start of a job of several processes: each connects to the store of rank 0 and waits for the others."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping
from datetime import timedelta

from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from finetune_trainer.clock import Clock
from finetune_trainer.distributed.collectives import World
from finetune_trainer.distributed.rank import RankInfo
from finetune_trainer.errors import PeerFailure

_STORE_TIMEOUT = timedelta(seconds=60)
_POLL_SECONDS = 0.1


def connect(environment: Mapping[str, str], rank: RankInfo, timeout_seconds: float, check: Callable[[], None],
            clock: Clock) -> World:
    """Connect to the other processes of the job.

    Args:
        environment: torchrun's variables.
        rank: the rank of this process.
        timeout_seconds: how long to wait for the others.
        check: called while the process waits; an exception that it raises ends the wait.
        clock: the time.

    Raises:
        PeerFailure: rank 0 does not answer, or a process did not arrive in time.
    """
    if rank.world_size == 1:
        return World()
    host, port = environment["MASTER_ADDR"], int(environment["MASTER_PORT"])
    # torchrun's agent may serve a store there already.
    serves_store = rank.is_main and environment.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    deadline = clock.seconds() + timeout_seconds
    if not serves_store:
        _await_listener(host, port, timeout_seconds, check, clock)
    try:
        # DNS may not know the address of this pod yet.
        store = TCPStore("localhost" if serves_store else host, port, None, serves_store, _STORE_TIMEOUT,
                         wait_for_workers=False)
    except RuntimeError as error:
        raise PeerFailure(f"rank {rank.rank} of {rank.world_size} processes cannot open or reach {host}:{port}: "
                          f"{str(error).splitlines()[0]}") from error
    restarts = environment.get("TORCHELASTIC_RESTART_COUNT", "0")
    world = World(rank, PrefixStore(f"finetune/{restarts}", store), clock)
    world.barrier("start", check, deadline - clock.seconds())
    return world


def _await_listener(host: str, port: int, timeout_seconds: float, check: Callable[[], None], clock: Clock) -> None:
    """Wait until rank 0 listens, in short attempts: the process notices a request to stop only between them."""
    deadline = clock.seconds() + timeout_seconds
    while True:
        try:
            socket.create_connection((host, port), timeout=2).close()
            return
        except OSError as error:
            if clock.seconds() > deadline:
                raise PeerFailure(f"rank 0 of this job does not answer at {host}:{port} within {timeout_seconds:g} s: "
                                  f"{error.strerror or error}. Check that its pod runs, and that pods of the job can "
                                  "connect to each other") from error
        check()
        time.sleep(_POLL_SECONDS)
