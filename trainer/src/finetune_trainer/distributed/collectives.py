"""Barriers and collectives of the processes that train together.

Outside training the processes synchronise through a key-value store that rank 0 serves. A waiting process polls the
store, so that it notices a request to stop and needs no time limit: the evaluation on rank 0 may take hours. Only for
training do the processes form a group with blocking collectives: Gloo for CPU tensors, NCCL for GPU tensors.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed import Store  # type: ignore[attr-defined]

from finetune_trainer.clock import Clock
from finetune_trainer.distributed.rank import RankInfo
from finetune_trainer.errors import PeerFailure
from finetune_trainer.hardware.device import Device

COLLECTIVE_TIMEOUT = timedelta(hours=1)
"""Timeout of a collective: longer than the slowest upload that the training loop waits for."""

_LOADING_SECONDS = 6 * 3600.0
_POLL_SECONDS = 0.1
_BUCKET_NUMBERS = 2**23
# The text with which Gloo, NCCL and the store report a lost connection: most of them raise plain RuntimeErrors.
_LOST_CONNECTION = ("gloo/", "NCCL", "Connection closed by peer", "Connection reset by peer")


class World:
    """The processes that train together. By default this process is alone: then no method waits or fails.

    Attributes:
        rank: the number of this process, from 0.
        size: the number of processes.
        is_main: whether this is rank 0.
    """

    def __init__(self, rank: RankInfo | None = None, store: Store | None = None, clock: Clock | None = None) -> None:
        rank = rank or RankInfo()
        self.rank = rank.rank
        self.size = rank.world_size
        self.is_main = rank.is_main
        self._store = store
        self._clock = clock

    def barrier(self, name: str, check: Callable[[], None], timeout_seconds: float = float("inf")) -> None:
        """Wait until all processes have reached this barrier.

        Args:
            name: the barrier's name; each name is used once in a run.
            check: called while the process waits; an exception that it raises ends the wait.
            timeout_seconds: how long to wait.

        Raises:
            PeerFailure: a process did not arrive in time, or rank 0 is gone.
        """
        if self._store is None or self._clock is None:
            return
        store, clock = self._store, self._clock
        deadline = clock.seconds() + timeout_seconds

        def wait(key: str, wanted: int) -> None:
            while (arrived := store.add(key, 0)) < wanted:
                check()
                if clock.seconds() > deadline:
                    raise PeerFailure(f"only {arrived} of {wanted} processes reached the barrier '{key}' in time; the "
                                      "others did not start, cannot connect to rank 0, or have ended. Read their own "
                                      "last messages")
                time.sleep(_POLL_SECONDS)

        with self._as_peer_failure():
            store.add(name, 1)
            wait(name, self.size)
            # Rank 0 leaves last, since it serves the store that the others poll.
            if not self.is_main:
                store.add(f"{name}, left", 1)
            else:
                wait(f"{name}, left", self.size - 1)

    def all_reduce_max(self, *values: int) -> tuple[int, ...]:
        """The maximum of each value over all processes. A collective: only during training, in every process."""
        if self.size == 1:
            return values
        numbers = torch.tensor(values, dtype=torch.int64)
        dist.all_reduce(numbers, dist.ReduceOp.MAX)
        return tuple(numbers.tolist())

    def any(self, flag: bool) -> bool:
        """Whether a flag is set in any process. A collective: only during training, in every process."""
        return bool(self.all_reduce_max(int(flag))[0])

    def all_reduce_sum(self, numbers: torch.Tensor) -> torch.Tensor:
        """The sum of a tensor over all processes, in place. A collective: only during training, in every process."""
        if self.size > 1:
            dist.all_reduce(numbers)
        return numbers

    def all_reduce_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace each gradient by its sum over all processes. A collective: only during training, in every process."""
        if self.size == 1:
            return
        for bucket in _buckets([p.grad for p in parameters if p.grad is not None]):
            summed = self.all_reduce_sum(torch.cat([gradient.reshape(-1) for gradient in bucket]))
            for gradient, total in zip(bucket, summed.split([one.numel() for one in bucket]), strict=True):
                gradient.copy_(total.view_as(gradient))

    def check_equal(self, facts: Mapping[str, str | int]) -> None:
        """Check that each fact has the same value in all processes. A collective: only during training.

        Raises:
            PeerFailure: values differ; the message names the facts.
        """
        numbers = [fact if isinstance(fact, int) else int(hashlib.sha256(fact.encode()).hexdigest()[:15], 16)
                   for fact in facts.values()]
        maxima = self.all_reduce_max(*numbers, *(-number for number in numbers))
        pairs = zip(facts.items(), maxima[:len(numbers)], maxima[len(numbers):], strict=True)
        differing = [f"{name} (here {fact})" for (name, fact), highest, negated_lowest in pairs
                     if highest != -negated_lowest]
        if differing:
            raise PeerFailure(f"the processes of this job read different values of: {', '.join(differing)}. Check that "
                              "all nodes read the same data, model and output")

    @contextmanager
    def training(self, device: Device, check: Callable[[], None]) -> Iterator[None]:
        """The process group of the training: starts when all processes are ready.

        Raises:
            PeerFailure: another process ended during the training.
        """
        if self._store is None:
            yield
            return
        self.barrier("training", check, _LOADING_SECONDS if self.is_main else float("inf"))
        # accelerate sets a number of threads of its own if the variable is missing.
        os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))
        with self._as_peer_failure():
            dist.init_process_group("cpu:gloo,cuda:nccl" if device.is_gpu else "gloo", store=self._store,
                                    rank=self.rank, world_size=self.size, timeout=COLLECTIVE_TIMEOUT)
            yield
            dist.destroy_process_group()

    @contextmanager
    def _as_peer_failure(self) -> Iterator[None]:
        """Raise `PeerFailure` for an error that says that a connection to another process is lost."""
        try:
            yield
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            if isinstance(error, dist.DistError) or any(words in str(error) for words in _LOST_CONNECTION):
                raise PeerFailure(f"rank {self.rank} of {self.size} processes lost the connection to another one: that "
                                  "process ended, or the network failed. Read the last message of that process"
                                  ) from error
            raise


def _buckets(tensors: Sequence[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """Tensors in groups: many small ones travel together, and a copy of a group is never as large as all of them."""
    bucket: list[torch.Tensor] = []
    for tensor in tensors:
        bucket.append(tensor)
        if sum(one.numel() for one in bucket) > _BUCKET_NUMBERS:
            yield bucket
            bucket = []
    if bucket:
        yield bucket
