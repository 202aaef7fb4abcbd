"""The rank of this process, read from environment variables; pure.

torchrun sets RANK and its companions, and the trainer uses them as they are. The operator sets three variables on a
pod: `FINETUNE_NODES` (the number of nodes), `JOB_COMPLETION_INDEX` (the node's number, from 0) and
`FINETUNE_RENDEZVOUS` (host:port of rank 0).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

RENDEZVOUS_SECONDS = 600.0
"""How long the processes of a job wait for each other at the start."""


@dataclass(frozen=True)
class RankInfo:
    """The position of this process among the processes that train together.

    Attributes:
        rank: the number of the process, from 0.
        world_size: the number of processes.
        local_rank: the number of the process on its node, from 0; the process uses the GPU of this number.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which evaluates, writes checkpoints and publishes."""
        return self.rank == 0


def has_rank(environment: Mapping[str, str]) -> bool:
    """Whether torchrun's variables are set."""
    return "RANK" in environment and "WORLD_SIZE" in environment


def rank_info(environment: Mapping[str, str]) -> RankInfo:
    """The rank that torchrun's variables give; without them the process trains alone."""
    if not has_rank(environment):
        return RankInfo()
    return RankInfo(int(environment["RANK"]), int(environment["WORLD_SIZE"]), int(environment.get("LOCAL_RANK", "0")))


def rank_variables(environment: Mapping[str, str], processes: int, local_rank: int, port: int = 0) -> dict[str, str]:
    """torchrun's variables for one process of a node; an empty mapping if it is the only process of the job.

    Args:
        environment: the variables that the operator sets.
        processes: the number of processes on each node.
        local_rank: the number of the process on its node.
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
