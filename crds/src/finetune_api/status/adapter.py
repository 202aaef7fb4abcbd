"""What a job published."""

from __future__ import annotations

from finetune_api.status.field_types import Text
from finetune_api.values.api_model import Message, Sha256


class PublishedAdapter(Message):
    """What was published."""

    uri: Text
    """Folder of what was trained: an adapter, changed parameters, or a whole model."""

    sha256: Sha256
    """Digest of its weights; of their digests where they lie in several files."""

    size_bytes: int
    """Size of its weights in bytes."""

    base_model: Text
    """The model it belongs to."""

    base_revision: Text | None = None
    """The commit of that model, or the digest of its files."""
