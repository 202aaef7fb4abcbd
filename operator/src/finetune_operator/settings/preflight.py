"""What the preflight check of a job gets, and how many checks run at once."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from finetune_api.spec.compute import Name
from finetune_api.values.api_model import ApiModel
from finetune_api.values.quantities import Duration, Quantity, ResourceQuantity
from pydantic import Field

from finetune_operator.settings.pod_template import PodTemplate


class PreflightSettings(ApiModel):
    """The check of a job before its start. Its pod gets CPUs and no accelerator. The pod that writes the report of an
    experiment gets the same, with the same timeout, queue and pod template."""

    cpu: ResourceQuantity = Quantity("500m")
    """CPU request of the check's pod."""

    memory: ResourceQuantity = Quantity("4Gi")
    """Memory request and limit of the check's pod. The libraries need 1 GiB; the rest is for the data set's rows."""

    ephemeral_storage: ResourceQuantity = Quantity("100Gi")
    """Disk space of the node that the check's pod may use: for the data set and a GGUF file."""

    timeout: Duration = timedelta(minutes=30)
    """How long a check may run."""

    queue_name: Name | None = None
    """Kueue LocalQueue, in the job's namespace, for the check's Job; null uses no queue."""

    parallelism: Annotated[int, Field(ge=1)] = 20
    """Checks that may run at the same time. A check that waits for a node, a quota or a queue does not count."""

    parallelism_per_namespace: Annotated[int, Field(ge=1)] = 10
    """Checks that one namespace may have at the same time, in any state, so that it does not block the others."""

    pod_template: PodTemplate | None = None
    """Part of a pod template, merged into the check's pod. null takes from the trainers' template what the network
    needs: environment, mounted ConfigMaps and Secrets of the container `trainer`, and imagePullSecrets."""
