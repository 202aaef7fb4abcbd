"""The model to fine-tune."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from finetune_api.values.api_model import ApiModel
from finetune_api.values.uris import ModelUri

SecretName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]


class SecretRef(ApiModel):
    """A Secret in the job's namespace. The operator fixes its keys, so that a job cannot name others.

    `finetune run` reads no Secret. It reads the environment variables of the same names.
    """

    name: SecretName
    """Name of the Secret."""


class ModelSpec(ApiModel):
    """The base model. Training never changes it."""

    source: ModelUri
    """Location of the model: a hub id (`mistralai/Mistral-7B-Instruct-v0.2`), `s3://bucket/folder`,
    `pvc://claim/folder`, or, with `finetune run`, `file:///folder`. The weights are safetensors or one GGUF file;
    pickled weights are rejected."""

    revision: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    """Commit, tag or branch on the hub. Status and manifest record the commit that was used."""

    token_secret_ref: SecretRef | None = None
    """Secret whose key `HF_TOKEN` gives access to a gated model or data set."""
