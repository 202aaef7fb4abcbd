"""The processes that train together: how they find each other, wait for each other, and decide in common.

They meet at a key-value store that the first one keeps, and wait there by asking it again and again, so that a waiting
process hears a request to stop and needs no time limit: an evaluation on the first process may take hours. Only for the
training itself do they form a group whose collectives block: Gloo between CPUs, and NCCL for tensors on GPUs.
"""

from __future__ import annotations

import hashlib
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from finetune_trainer.clock import Clock
from finetune_trainer.distributed.rank import Place
from finetune_trainer.errors import PeerFailure
from finetune_trainer.hardware.device import Device

COLLECTIVE = timedelta(hours=1)
"""How long a collective may take: longer than the slowest upload that the training loop waits for."""

_LOADING_SECONDS = 6 * 3600.0
_STORE = timedelta(seconds=60)
_PAUSE_SECONDS = 0.1
_BUCKET_NUMBERS = 2**23
# How Gloo, NCCL and the store say that the other end is gone: most come as plain RuntimeErrors.
_GONE = ("gloo/", "NCCL", "Connection closed by peer", "Connection reset by peer")


class World:
    """This process and those that train with it; by default it is alone, and then nothing here waits or fails."""

    def __init__(self, place: Place | None = None, store: Store | None = None, clock: Clock | None = None) -> None:
        place = place or Place()
        self.rank = place.rank
        self.size = place.size
        self.is_main = place.is_main
        self._store = store
        self._clock = clock

    def meet(self, moment: str, check: Callable[[], None], patience_seconds: float = float("inf")) -> None:
        """Wait until all processes have come to a moment; each moment once in a run.

        Args:
            moment: its name.
            check: called while waiting; what it raises ends the wait.
            patience_seconds: how long to wait.

        Raises:
            PeerFailure: somebody did not come in time, or the first process is gone.
        """
        if self._store is None or self._clock is None:
            return
        store, deadline = self._store, self._clock.seconds() + patience_seconds
        with self._gone_is_said():
            store.add(moment, 1)
            self._wait(store, moment, self.size, check, deadline)
            # The first process leaves last: the others could not ask a store that is gone.
            if not self.is_main:
                store.add(f"{moment}, seen", 1)
            else:
                self._wait(store, f"{moment}, seen", self.size - 1, check, deadline)

    def _wait(self, store: Store, key: str, wanted: int, check: Callable[[], None], deadline: float) -> None:
        assert self._clock is not None
        while (here := store.add(key, 0)) < wanted:
            check()
            if self._clock.seconds() > deadline:
                raise PeerFailure(f"only {here} of {wanted} processes came to the moment '{key}' in time; the others "
                                  "were not started, can't reach this one, or have ended: see their own last messages")
            time.sleep(_PAUSE_SECONDS)

    def highest(self, *values: int) -> tuple[int, ...]:
        """The highest of each value over all processes. In training only: every process has to call it."""
        if self.size == 1:
            return values
        numbers = torch.tensor(values, dtype=torch.int64)
        dist.all_reduce(numbers, dist.ReduceOp.MAX)
        return tuple(numbers.tolist())

    def any(self, flag: bool) -> bool:
        """Whether a flag is set in any process. In training only: every process has to call it."""
        return bool(self.highest(int(flag))[0])

    def total(self, numbers: torch.Tensor) -> torch.Tensor:
        """The sum of a tensor over all processes. In training only: every process has to call it."""
        if self.size > 1:
            dist.all_reduce(numbers)
        return numbers

    def add_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Give every process the sum of all processes' gradients. In training only: every process has to call it."""
        if self.size == 1:
            return
        for bucket in _buckets([p.grad for p in parameters if p.grad is not None]):
            together = self.total(torch.cat([gradient.reshape(-1) for gradient in bucket]))
            for gradient, whole in zip(bucket, together.split([one.numel() for one in bucket]), strict=True):
                gradient.copy_(whole.view_as(gradient))

    def agree(self, facts: Mapping[str, str | int]) -> None:
        """Make sure that all processes see the same. In training only: every process has to call it.

        Raises:
            PeerFailure: with the names of the facts that differ.
        """
        numbers = [fact if isinstance(fact, int) else int(hashlib.sha256(fact.encode()).hexdigest()[:15], 16)
                   for fact in facts.values()]
        highest = self.highest(*numbers, *(-number for number in numbers))
        pairs = zip(facts.items(), highest[:len(numbers)], highest[len(numbers):], strict=True)
        apart = [f"{name} (here {fact})" for (name, fact), most, least in pairs if most != -least]
        if apart:
            raise PeerFailure(f"the processes of this job don't see the same: {', '.join(apart)}; do all nodes read "
                              "the same data, model and output?")

    @contextmanager
    def training(self, device: Device, check: Callable[[], None]) -> Iterator[None]:
        """The time in which all processes train: begins when all are ready, ends when all are done.

        Raises:
            PeerFailure: another process ended meanwhile.
        """
        if self._store is None:
            yield
            return
        self.meet("training", check, _LOADING_SECONDS if self.is_main else float("inf"))
        # accelerate would set a number of threads of its own where none is given.
        os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))
        with self._gone_is_said():
            dist.init_process_group("cpu:gloo,cuda:nccl" if device.is_gpu else "gloo", store=self._store,
                                    rank=self.rank, world_size=self.size, timeout=COLLECTIVE)
            yield
            dist.destroy_process_group()

    @contextmanager
    def _gone_is_said(self) -> Iterator[None]:
        try:
            yield
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            if isinstance(error, dist.DistError) or any(words in str(error) for words in _GONE):
                raise PeerFailure(f"process {self.rank} of {self.size} lost another one: it ended, or the network "
                                  "between them failed; its own last message says why") from error
            raise


def _buckets(tensors: Sequence[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """Tensors in groups: many small ones travel together, and a large one needs no second copy of all."""
    bucket: list[torch.Tensor] = []
    for tensor in tensors:
        bucket.append(tensor)
        if sum(one.numel() for one in bucket) > _BUCKET_NUMBERS:
            yield bucket
            bucket = []
    if bucket:
        yield bucket


def connect(environment: Mapping[str, str], place: Place, patience_seconds: float, check: Callable[[], None],
            clock: Clock) -> World:
    """Find the other processes of the job.

    Args:
        environment: torchrun's variables.
        place: this process's place.
        patience_seconds: how long to wait for the others.
        check: called while waiting; what it raises ends the wait.
        clock: the time.

    Raises:
        PeerFailure: the first process can't be reached, or not all came in time.
    """
    if place.size == 1:
        return World()
    host, port = environment["MASTER_ADDR"], int(environment["MASTER_PORT"])
    # torchrun's agent may keep a store there already.
    keeps_store = place.is_main and environment.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    deadline = clock.seconds() + patience_seconds
    if not keeps_store:
        _await_listener(host, port, deadline, patience_seconds, check, clock)
    try:
        # Its own address may not be known to the name service yet.
        store = TCPStore("localhost" if keeps_store else host, port, None, keeps_store, _STORE,
                              wait_for_workers=False)
    except RuntimeError as error:
        raise PeerFailure(f"process {place.rank} of {place.size} can't open or reach {host}:{port}: "
                          f"{str(error).splitlines()[0]}") from error
    attempt = environment.get("TORCHELASTIC_RESTART_COUNT", "0")
    world = World(place, PrefixStore(f"finetune/{attempt}", store), clock)
    world.meet("start", check, deadline - clock.seconds())
    return world


def _await_listener(host: str, port: int, deadline: float, patience_seconds: float, check: Callable[[], None],
                    clock: Clock) -> None:
    """Wait until somebody listens: in pieces, since a request to stop is heard between them alone."""
    while True:
        try:
            socket.create_connection((host, port), timeout=2).close()
            return
        except OSError as error:
            if clock.seconds() > deadline:
                raise PeerFailure(f"the first process of this job can't be reached at {host}:{port} in "
                                  f"{patience_seconds:g} s: {error.strerror or error}; is its pod running, and may "
                                  "pods of the job reach each other?") from error
        check()
        time.sleep(_PAUSE_SECONDS)
