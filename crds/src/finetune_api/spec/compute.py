"""The hardware and the nodes of a job."""

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
    """Taint key. Default: every taint, with operator Exists."""

    operator: TolerationOperator = TolerationOperator.EQUAL
    """`Equal` or `Exists`."""

    value: LabelValue | None = None
    """Taint value, for operator Equal."""

    effect: TaintEffect | None = None
    """Taint effect. Default: every effect."""

    toleration_seconds: Annotated[int, Field(ge=0)] | None = None
    """Seconds for which a NoExecute taint is tolerated. Default: without limit."""


AUTO = "auto"
"""The accelerator that the check before the start chooses."""


class ComputeSpec(ApiModel):
    """Accelerators, nodes and scheduling. `finetune run` ignores this and uses the machine that it runs on."""

    accelerator: Name = "nvidia-l4"
    """Name of an accelerator in the operator's catalogue. `cpu` needs no GPU. `auto` lets the check before the start
    choose: of the catalogue's GPUs that the job fits on, the one with the lowest estimated cost."""

    gpus_per_node: Annotated[int, Field(ge=1, le=16)] = 1
    """Number of accelerators on each node."""

    nodes: Annotated[int, Field(ge=1, le=64)] = 1
    """Number of nodes that train together."""

    cpu: ResourceQuantity | None = None
    """CPU request of a trainer pod. Default: the catalogue's."""

    memory: ResourceQuantity | None = None
    """Memory request and limit of a trainer pod. Default: the catalogue's."""

    spot: bool = False
    """Allow preemptible nodes. They cost less; if one is taken away, the job resumes from its last checkpoint."""

    queue_name: Name | None = None
    """Kueue LocalQueue that admits the job."""

    priority_class_name: Name | None = None
    """PriorityClass of the pods, if the operator's settings allow it."""

    service_account_name: Name | None = None
    """ServiceAccount of the pods, if the operator's settings allow it."""

    node_selector: Annotated[dict[LabelKey, LabelValue], Field(max_length=16)] | None = None
    """Node labels to require in addition to the catalogue's, if the operator's settings allow them."""

    tolerations: Annotated[tuple[Toleration, ...], Field(max_length=16)] | None = None
    """Tolerations in addition to the catalogue's, if the operator's settings allow them."""

    def on_accelerator(self, name: str) -> ComputeSpec:
        """The same with another accelerator."""
        return self.model_copy(update={"accelerator": name})

    def processes(self, accelerator: str) -> int:
        """Number of processes that train together: one per GPU, or one per node if the accelerator is `cpu`.

        Args:
            accelerator: what they train on. With `finetune run` it is the machine's, not this section's.
        """
        return self.nodes * (1 if accelerator == "cpu" else self.gpus_per_node)
