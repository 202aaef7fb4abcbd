"""The values that a job may name beside the catalogue."""

from __future__ import annotations

from typing import Annotated

from finetune_api.methods.reft import PluginName
from finetune_api.spec.compute import LabelKey, Name
from finetune_api.values.api_model import ApiModel
from pydantic import Field

_HostName = Annotated[str, Field(pattern=r"^[A-Za-z0-9.:_-]{1,253}$")]


class Allowed(ApiModel):
    """Values that a job may name beside the catalogue. By default there are none: a user who may create a job must not
    gain a stronger account, other teams' nodes, or a way to run their own code in a trainer.
    """

    service_account_names: tuple[Name, ...] = ()
    """ServiceAccounts that trainers may run as."""

    priority_class_names: tuple[Name, ...] = ()
    """PriorityClasses that trainers may have."""

    node_labels: tuple[LabelKey, ...] = ()
    """Node labels that a job's `compute.nodeSelector` may use."""

    toleration_keys: tuple[LabelKey, ...] = ()
    """Taint keys that a job's `compute.tolerations` may use."""

    reward_plugins: tuple[PluginName, ...] = ()
    """Plug-ins that a job's `method.reft.reward.plugin` may use: entry points of the group `finetune.rewards` in the
    trainer's image."""

    dataset_hosts: tuple[_HostName, ...] = ()
    """Hosts that `https://` data sets may come from even if their addresses are not public."""
