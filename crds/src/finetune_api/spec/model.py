"""The model to fine-tune."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from finetune_api.values.api_model import ApiModel
from finetune_api.values.uris import ModelUri

SecretName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]


class SecretRef(ApiModel):
    """A Secret of the job's namespace. Its keys are fixed by the operator, so that a job can't name others.

    With `finetune run` no Secret is read: the environment variables of the same names are.
    """

    name: SecretName
    """Name of the Secret."""


class ModelSpec(ApiModel):
    """The base model, which is never changed."""

    source: ModelUri
    """A hub id (`mistralai/Mistral-7B-Instruct-v0.2`), or `s3://bucket/folder`, `pvc://claim/folder`, or with
    `finetune run` `file:///folder`, of a model in safetensors, or of one GGUF file. Pickled weights are refused."""

    revision: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    """Commit, tag or branch on the hub. The commit that was really used is recorded in status and manifest."""

    token_secret_ref: SecretRef | None = None
    """Secret whose key `HF_TOKEN` opens a gated model or data set."""
