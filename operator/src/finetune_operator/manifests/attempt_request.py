"""What the objects of one attempt are made from. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from finetune_api.spec.job import FineTuneJobSpec

from finetune_operator.observed.job import JobView
from finetune_operator.settings import Accelerator, Settings


@dataclass(frozen=True)
class AttemptRequest:
    """One attempt of a job.

    Attributes:
        job: the job.
        spec: what the attempt runs; differs from the job's spec where a retry lowers the use of memory.
        number: of the attempt, from 1.
        image: of the trainer.
        accelerator: the catalogue's entry for `spec.compute.accelerator`.
        settings: the administrator's.
        rendezvous: address at which the pods of several nodes meet; None for one node.
        deadline: time on its node after which the kubelet ends a pod that hangs; None for no limit.
    """

    job: JobView
    spec: FineTuneJobSpec
    number: int
    image: str
    accelerator: Accelerator
    settings: Settings
    rendezvous: str | None = None
    deadline: timedelta | None = None
