"""Which process of a job this is, as the environment says; pure.

torchrun says it in RANK and its like, which are used as they are. The operator says it of a pod: `FINETUNE_NODES` (how
many), `JOB_COMPLETION_INDEX` (which one, from 0) and `FINETUNE_RENDEZVOUS` (host:port of the first).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """The place of a process among those that train together.

    Attributes:
        rank: its number, from 0.
        size: how many there are.
        local_rank: its number among those of its node, and so its GPU's.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Whether it is the process that evaluates, writes checkpoints and publishes."""
        return self.rank == 0


def has_place(environment: Mapping[str, str]) -> bool:
    """Whether a process was told its place already."""
    return "RANK" in environment and "WORLD_SIZE" in environment


def place_in(environment: Mapping[str, str]) -> Place:
    """The place that torchrun's variables name; without them a process is alone."""
    if not has_place(environment):
        return Place()
    return Place(int(environment["RANK"]), int(environment["WORLD_SIZE"]), int(environment.get("LOCAL_RANK", "0")))


def place_variables(environment: Mapping[str, str], processes: int, local_rank: int, port: int = 0) -> dict[str, str]:
    """torchrun's variables for a process of a node; none where it is the only one of the job.

    Args:
        environment: what the operator said.
        processes: how many there are on each node.
        local_rank: which of them.
        port: a free port of this machine, for the processes of a single node.
    """
    nodes, node = int(environment.get("FINETUNE_NODES", "1")), int(environment.get("JOB_COMPLETION_INDEX", "0"))
    if nodes * processes == 1:
        return {}
    host, _, rendezvous = environment.get("FINETUNE_RENDEZVOUS", f"127.0.0.1:{port}").rpartition(":")
    return {
        "RANK": str(node * processes + local_rank), "LOCAL_RANK": str(local_rank),
        "WORLD_SIZE": str(nodes * processes), "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": host, "MASTER_PORT": rendezvous,
    }
