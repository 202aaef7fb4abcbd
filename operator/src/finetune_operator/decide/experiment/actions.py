"""What a pass does to the objects that an experiment owns. Pure data."""

from __future__ import annotations

from dataclasses import dataclass

from finetune_operator.decide.actions import Apply, Create
from finetune_operator.manifests.child import Manifest
from finetune_operator.observed.job import JobView


@dataclass(frozen=True)
class PatchOwned:
    """Change a job of the experiment by a merge patch."""

    job: JobView
    patch: Manifest


OwnedAction = Create | Apply | PatchOwned
