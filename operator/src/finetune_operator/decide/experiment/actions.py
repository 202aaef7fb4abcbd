"""What a pass does to the objects that an experiment owns. Pure data."""

from __future__ import annotations

from dataclasses import dataclass

from finetune_operator.manifests.child import Manifest
from finetune_operator.observed.job import JobView


@dataclass(frozen=True)
class CreateOwned:
    """Create an object of the experiment. If it exists and the experiment owns it, nothing is done."""

    manifest: Manifest


@dataclass(frozen=True)
class ApplyOwned:
    """Apply an object of the experiment with server-side apply."""

    manifest: Manifest


@dataclass(frozen=True)
class PatchOwned:
    """Change a job of the experiment by a merge patch."""

    job: JobView
    patch: Manifest


OwnedAction = CreateOwned | ApplyOwned | PatchOwned
