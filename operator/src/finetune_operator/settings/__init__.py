"""The administrator's settings: one strict YAML file; every field has a default that works."""

from finetune_operator.settings.accelerators import DEFAULT_CATALOGUE, Accelerator
from finetune_operator.settings.allowed import Allowed
from finetune_operator.settings.load import load_settings
from finetune_operator.settings.network import Destination, Peer, TrainerNetwork
from finetune_operator.settings.preflight import PreflightSettings
from finetune_operator.settings.settings import Settings

__all__ = [
    "DEFAULT_CATALOGUE",
    "Accelerator",
    "Allowed",
    "Destination",
    "Peer",
    "PreflightSettings",
    "Settings",
    "TrainerNetwork",
    "load_settings",
]
