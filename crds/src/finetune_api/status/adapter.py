"""What a job published."""

from __future__ import annotations

from finetune_api.status.field_types import Text
from finetune_api.values.api_model import Message, Sha256


class PublishedAdapter(Message):
    """What the job published."""

    uri: Text
    """Folder of the adapter, of the changed parameters, or of the whole model."""

    sha256: Sha256
    """SHA-256 digest of the weights; for several files, the digest of their digests."""

    size_bytes: int
    """Size of the weights in bytes."""

    base_model: Text
    """The base model."""

    base_revision: Text | None = None
    """Commit of the base model, or the digest of its files."""
