"""Which checkpoints in an output are complete, which fit a run, and which is the newest: by their manifests alone.

A job can resume from an earlier job of its namespace (`runPolicy.resumeFrom`). The checkpoints of that job are only
read, never changed or removed. checkpoints.py fetches the newest one that is whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date

from finetune_api.messages import CheckpointManifest, RunConfig
from finetune_api.messages.layout import CHECKPOINT_MANIFEST, CHECKPOINTS, job_prefix
from finetune_api.spec.policy import MissingCheckpoint, RunPolicy
from pydantic import ValidationError

from finetune_trainer.errors import BadConfig, MissingInput
from finetune_trainer.storage import Storage, as_output

_MANIFEST_KEY = re.compile(rf"(.+)/{CHECKPOINTS}/([0-9]{{1,9}})/step-([0-9]{{1,12}})/"
                           + re.escape(CHECKPOINT_MANIFEST))


@dataclass(frozen=True)
class Identity:
    """The digests that a checkpoint and a run must share: job, rows and base weights.

    Attributes:
        spec_hash: the digest of everything in the spec that decides the result.
        data_hash: digest of the prepared rows.
        base_hash: digest of the base weights in memory.
        environment: machine type, threads and versions. If these differ a run still resumes, but not bit for bit.
    """

    spec_hash: str
    data_hash: str
    base_hash: str
    environment: dict[str, str]


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint.

    Attributes:
        folder: where its files are.
        own: whether it belongs to this job, and not to an earlier one.
        attempt: the attempt that wrote it.
        step: optimizer steps done.
    """

    folder: str
    own: bool
    attempt: int
    step: int

    @property
    def order(self) -> tuple[int, bool, int]:
        """The sort key: a run resumes from the last checkpoint in this order."""
        return self.step, self.own, self.attempt


@dataclass(frozen=True)
class ResumeSource:
    """What a run can resume from, beside its own checkpoints.

    Attributes:
        earlier: the prefix of the folders of the earlier job; None if the job names none.
        date: the date that chat templates write; checkpoints hold it.
        policy: what the job says about an earlier one, and what it does if no checkpoint fits.
    """

    earlier: str | None = None
    date: date | None = None
    policy: RunPolicy = field(default_factory=RunPolicy)


def resume_source(config: RunConfig) -> ResumeSource:
    """What a run can resume from, by its configuration."""
    name = config.spec.run_policy.resume_from
    return ResumeSource(f"{config.namespace}/{name}/" if name else None, config.date, config.spec.run_policy)


def complete_checkpoints(storage: Storage, own: str, earlier: str | None) -> list[Checkpoint]:
    """The complete checkpoints, in the order of `Checkpoint.order`.

    Args:
        storage: the job's output.
        own: the job's folder.
        earlier: the prefix of the folders of the earlier job; None if there is none.

    Raises:
        MissingInput: the output cannot be listed.
    """
    keys = [*storage.keys(f"{own}/{CHECKPOINTS}/"), *(storage.keys(earlier) if earlier else ())]
    found = set()
    for key in keys:
        match = _MANIFEST_KEY.fullmatch(key)
        if match:
            found.add(Checkpoint(key.rpartition("/")[0], match[1] == own, int(match[2]), int(match[3])))
    return sorted(found, key=lambda one: one.order)


def read_checkpoint(storage: Storage, checkpoint: Checkpoint) -> CheckpointManifest | str:
    """The manifest of a checkpoint, or a sentence about what is wrong with it.

    Raises:
        MissingInput: it cannot be read.
    """
    try:
        content = storage.get_bytes(f"{checkpoint.folder}/{CHECKPOINT_MANIFEST}") or b""
        manifest = CheckpointManifest.model_validate_json(content)
    except (ValidationError, BadConfig):
        return "its manifest can't be read"
    return manifest if manifest.step == checkpoint.step else "its manifest names another step"


def checkpoint_mismatch(manifest: CheckpointManifest, spec_hash: str, data_hash: str | None = None,
                        base_hash: str | None = None) -> str | None:
    """Why a checkpoint does not fit, or None. An argument that is None is not known yet, and not compared. Pure."""
    for what, mine, its in (("another spec", spec_hash, manifest.spec_hash),
                            ("other data", data_hash, manifest.data_hash),
                            ("other base weights", base_hash, manifest.base_hash)):
        if mine is not None and mine != its:
            return f"it was written for {what}"
    return None


def _read_all(storage: Storage, config: RunConfig) -> Iterator[tuple[Checkpoint, CheckpointManifest | str]]:
    own = job_prefix(config.namespace, config.name, config.uid)
    with as_output():
        for checkpoint in reversed(complete_checkpoints(storage, own, resume_source(config).earlier)):
            yield checkpoint, read_checkpoint(storage, checkpoint)


def chat_template_date(storage: Storage, config: RunConfig, today: date) -> date:
    """The date that chat templates write: that of the checkpoint to resume from, else that of the job's start.

    Raises:
        OutputNotWritable: the output cannot be read.
    """
    for _, manifest in _read_all(storage, config):
        if isinstance(manifest, str) or checkpoint_mismatch(manifest, config.spec_hash) is not None:
            continue
        if manifest.date:
            return manifest.date
    return config.date or today


def require_earlier(storage: Storage, config: RunConfig, data_hash: str, base_hash: str | None = None
                    ) -> Checkpoint | str | None:
    """The checkpoint from which a job resumes that names an earlier one; None for a job that names none.

    Only manifests are read. `CheckpointStore.newest` finds damaged files when it fetches them.

    Returns:
        A sentence in place of a checkpoint, if none fits and `onMissingCheckpoint` is `TrainFromStart`.

    Raises:
        MissingInput: no checkpoint fits, and the job does not ask to train from the start.
    """
    if config.spec.run_policy.resume_from is None:
        return None
    faults: list[str] = []
    for checkpoint, manifest in _read_all(storage, config):
        fault = manifest if isinstance(manifest, str) else checkpoint_mismatch(
            manifest, config.spec_hash, data_hash, base_hash)
        if fault is None:
            return checkpoint
        faults.append(f"{checkpoint.folder}: {fault}")
    return no_checkpoint(config.spec.run_policy, faults)


def no_checkpoint(policy: RunPolicy, faults: Sequence[str]) -> str:
    """A sentence about a job that names an earlier one, of which no checkpoint fits.

    Args:
        policy: the job's run policy.
        faults: what is wrong with the checkpoints that there are.

    Raises:
        MissingInput: the job does not ask to train from the start.
    """
    missing = f"no checkpoint of the job {policy.resume_from} fits ({_words(faults)})"
    if policy.on_missing_checkpoint is MissingCheckpoint.TRAIN_FROM_START:
        return missing
    raise MissingInput(f"spec.runPolicy.resumeFrom: {missing}. Name a job with the same spec, data and base model, "
                       "remove resumeFrom to train from the start, or set onMissingCheckpoint: TrainFromStart")


def _words(faults: Sequence[str]) -> str:
    more = f"; and {len(faults) - 3} more" if len(faults) > 3 else ""
    return "; ".join(faults[:3]) + more if faults else "this output has no checkpoint of that job"
