"""The FineTuneJobs of an experiment: how one is created, and how it is changed. Pure."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from finetune_api.experiment.expansion import Run
from finetune_api.rule import merge_patch
from finetune_api.spec.policy import MissingCheckpoint

from finetune_operator.manifests.child import Manifest, digest_of, owned_metadata
from finetune_operator.names import EXPERIMENT_LABEL, HASH_ANNOTATION, HELD_ANNOTATION, VARIANT_LABEL
from finetune_operator.observed.experiment import ExperimentView

_LONGEST_LABEL = 63


def held_job(experiment: ExperimentView, run: Run, deleted: str | None = None) -> Manifest:
    """A job that is checked, and waits until its experiment starts it.

    Args:
        experiment: the experiment.
        run: the job.
        deleted: uid of the same job before it was deleted: the new one resumes from its checkpoints, if there are any.
            A job that resumes from a rung does that instead.
    """
    policy: dict[str, Any] = {"suspend": True}
    if deleted and run.job.spec.run_policy.resume_from is None:
        policy |= {"resumeFrom": f"{run.name}/{deleted}",
                   "onMissingCheckpoint": MissingCheckpoint.TRAIN_FROM_START.value}
    labels = {EXPERIMENT_LABEL: experiment.name, VARIANT_LABEL: run.variant[:_LONGEST_LABEL].rstrip("-")}
    annotations = {HELD_ANNOTATION: "true", HASH_ANNOTATION: written_hash(run)}
    return {
        **merge_patch(run.document, {"spec": {"runPolicy": policy}}),
        "metadata": {**owned_metadata(experiment, run.name, labels), "annotations": annotations},
    }


def written_hash(run: Run) -> str:
    """Digest of the spec as the user wrote it, without what the start of the job writes.

    Parts of a spec decide no result, and so not the name of the job. By this digest a held job is known to be of an
    earlier edit. It says nothing of the stored spec, to which admission may have added something.
    """
    return digest_of(merge_patch(run.document["spec"], {"budget": {"maxCost": None}, "runPolicy": {"suspend": None}}))


def start_of_job(run: Run, max_cost: Decimal | None) -> Manifest:
    """The merge patch that starts a held job, with what it may spend."""
    suspended = run.job.spec.run_policy.suspend  # The user's own wish.
    return merge_patch(resumption(suspended), limit_of_job(max_cost))


def limit_of_job(max_cost: Decimal | None) -> Manifest:
    """The merge patch that sets what a job may spend."""
    return {"spec": {"budget": {"maxCost": None if max_cost is None else f"{max_cost:f}"}}}


def resumption(suspended: bool = False) -> Manifest:
    """The merge patch that lets a job go on."""
    return {"metadata": {"annotations": {HELD_ANNOTATION: None}}, "spec": {"runPolicy": {"suspend": suspended}}}


def suspension() -> dict[str, Any]:
    """The merge patch that suspends a job, and says that its experiment did it."""
    return {"metadata": {"annotations": {HELD_ANNOTATION: "true"}}, "spec": {"runPolicy": {"suspend": True}}}
