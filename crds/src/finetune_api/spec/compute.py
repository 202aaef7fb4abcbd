"""What the trainer runs on."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from finetune_api.values.api_model import ApiModel
from finetune_api.values.quantities import ResourceQuantity

Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]
_LABEL = "[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?"
LabelKey = Annotated[str, Field(pattern=rf"^([a-z0-9]([a-z0-9.-]{{0,251}}[a-z0-9])?/)?{_LABEL}$")]
LabelValue = Annotated[str, Field(pattern=rf"^({_LABEL})?$")]


class TolerationOperator(StrEnum):
    """How a toleration compares."""

    EXISTS = "Exists"
    EQUAL = "Equal"


class TaintEffect(StrEnum):
    """The effect of a taint."""

    NO_SCHEDULE = "NoSchedule"
    PREFER_NO_SCHEDULE = "PreferNoSchedule"
    NO_EXECUTE = "NoExecute"


class Toleration(ApiModel):
    """A Kubernetes toleration."""

    key: LabelKey | None = None
    """Taint key; left out with operator Exists it matches every taint."""

    operator: TolerationOperator = TolerationOperator.EQUAL
    """`Equal` or `Exists`."""

    value: LabelValue | None = None
    """Taint value, for operator Equal."""

    effect: TaintEffect | None = None
    """Taint effect; left out it matches all."""

    toleration_seconds: Annotated[int, Field(ge=0)] | None = None
    """How long a NoExecute taint is tolerated, in seconds."""


class ComputeSpec(ApiModel):
    """Accelerators, nodes and scheduling. `finetune run` uses the machine that it is on."""

    accelerator: Name = "nvidia-l4"
    """A name in the operator's accelerator catalogue; `cpu` needs no GPU."""

    gpus_per_node: Annotated[int, Field(ge=1, le=16)] = 1
    """Accelerators on each node."""

    nodes: Annotated[int, Field(ge=1, le=64)] = 1
    """Nodes that train together."""

    cpu: ResourceQuantity | None = None
    """CPU request of a trainer pod. Left out: the catalogue's."""

    memory: ResourceQuantity | None = None
    """Memory request and limit of a trainer pod. Left out: the catalogue's."""

    spot: bool = False
    """Allow preemptible nodes: cheaper, and the job resumes from its checkpoint when one is taken away."""

    queue_name: Name | None = None
    """Kueue LocalQueue that admits the job."""

    priority_class_name: Name | None = None
    """PriorityClass of the pods, if the operator's settings allow it."""

    service_account_name: Name | None = None
    """ServiceAccount of the pods, if the operator's settings allow it."""

    node_selector: Annotated[dict[LabelKey, LabelValue], Field(max_length=16)] | None = None
    """Node labels to require beside the catalogue's, if the operator's settings allow them."""

    tolerations: Annotated[tuple[Toleration, ...], Field(max_length=16)] | None = None
    """Tolerations beside the catalogue's, if the operator's settings allow them."""

    def processes(self, accelerator: str) -> int:
        """How many processes train together: one for each GPU, or for each node where the accelerator is `cpu`.

        Args:
            accelerator: what they train on, which with `finetune run` is the machine's and not this block's.
        """
        return self.nodes * (1 if accelerator == "cpu" else self.gpus_per_node)
