"""What a trainer writes beside checkpoints and results."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from finetune_api.messages.field_types import Date, Timestamp
from finetune_api.messages.result import Result
from finetune_api.values.api_model import Message, Sha256
from finetune_api.values.paths import RelativePath
from finetune_api.values.quantities import Money


class PublishedFile(Message):
    """One file of a checkpoint or result."""

    path: RelativePath
    """Path below the folder that lists it."""

    sha256: Sha256
    """SHA-256 digest of the file."""

    size_bytes: Annotated[int, Field(ge=0)]
    """Size in bytes."""


class CheckpointManifest(Message):
    """Manifest of a checkpoint. The trainer writes it last: a folder with a manifest is a complete checkpoint."""

    step: Annotated[int, Field(ge=0)]
    """Number of optimizer steps done."""

    attempt: int
    """The attempt that wrote it."""

    spec_hash: Sha256
    """Digest of what decides the result."""

    data_hash: Sha256
    """Digest of the prepared rows."""

    base_hash: Sha256
    """Digest of the base weights as they are in memory, quantized or not."""

    trained_seconds: float
    """Seconds that trainers have run until then, over all attempts."""

    environment: dict[str, str]
    """Machine type, thread count and package versions: a resumed run is bit-exact where these are the same."""

    date: Date | None = None
    """The day that its rows use as today. A run that resumes from it uses the same one."""

    files: tuple[PublishedFile, ...]
    """The files of the checkpoint."""


class RunFigures(Message):
    """What a result took: money, time and speed."""

    cost: Money
    """Amount spent, over all attempts that the trainer knows of."""

    resumed_cost: Money | None = None
    """The part of it that was spent before the checkpoint from which the last attempt resumed."""

    currency: str = "USD"
    """Currency of the amount."""

    seconds: float
    """Seconds that trainers have run, over all attempts."""

    tokens_per_second: float | None = None
    """Tokens per second in training."""

    trainable_parameters: int | None = None
    """Number of parameters that were trained."""


class Manifest(Message):
    """Manifest of a result. The trainer writes it last and once: a folder with a manifest is a complete result."""

    schema_version: int = 1
    """Version of this format."""

    namespace: str
    """Namespace of the job."""

    name: str
    """Name of the job."""

    uid: str
    """Identity of the job."""

    attempt: int
    """The attempt that published."""

    spec_hash: Sha256
    """Digest of what decides the result."""

    data_hash: Sha256
    """Digest of the prepared rows."""

    base_model: str
    """The model that the adapter belongs to."""

    base_revision: str | None = None
    """Its commit, or the digest of its files."""

    base_description: Sha256 | None = None
    """Digest of its configuration, tokenizer and chat template, if the revision does not cover them."""

    created: Timestamp
    """When it was published."""

    files: tuple[PublishedFile, ...]
    """Every file of the result, relative to the job's folder."""

    result: Result
    """Result of the job."""

    figures: RunFigures | None = None
    """What the result took. Earlier releases wrote none."""

    packages: dict[str, str]
    """Package versions."""

    run: dict[str, Any]
    """The run configuration."""

    def path_of(self, name: str) -> str | None:
        """The path of the file with a name, relative to the job's folder; None if the result has none."""
        return next((file.path for file in self.files if file.path.endswith(f"/{name}")), None)
