"""The identity of a job that runs without a cluster: which folder of its output belongs to it."""

from __future__ import annotations

import hashlib
import itertools
import tempfile
import uuid
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

from finetune_api.job import FineTuneJob
from finetune_api.messages import Accelerator, RunConfig
from finetune_api.messages.layout import job_prefix
from finetune_api.resolve import resolve_defaults, spec_hash
from finetune_api.spec.policy import RerunPolicy
from finetune_api.values.uris import Uri

from finetune_trainer.data.sources.splits import local_files
from finetune_trainer.model.files.content import content_digest, description_digest
from finetune_trainer.publish.adoption import Wanted, asked_for_less, damage, read_manifest, result_mismatch, wanted
from finetune_trainer.storage import Storage, as_output, open_storage
from finetune_trainer.storage.digests import file_digest

_NAMESPACE = uuid.UUID("8f9b6c1e-52c8-4a7c-9c06-3e1c5b0d7a11")


def run_config_without_accelerator(job: FineTuneJob, rerun: bool, note: Callable[[str], None]) -> RunConfig:
    """The run configuration of a job, without the accelerator of this machine, since torch is needed to find that.

    The uid follows from the job's name and everything that decides its result, local data included. So the same job
    resumes, or finds what it published. A changed job gets a folder of its own, as does a job whose base was replaced.

    Args:
        job: the job.
        rerun: whether to train again even if the same job is published already.
        note: receives notes for people.

    Raises:
        OutputNotWritable: the output cannot be read.
        BadConfig: the output cannot be used here.
    """
    spec = resolve_defaults(job.spec)
    digest = spec_hash(spec)
    storage = open_storage(spec.output.uri, spec.output.s3)
    again = rerun or spec.run_policy.rerun is RerunPolicy.ALWAYS
    config = RunConfig(
        namespace=job.metadata.namespace, name=job.metadata.name, uid="unknown", attempt=1, spec=spec,
        spec_hash=digest, accelerator=Accelerator(name="unknown", hourly_rate=Decimal(0)),
    )
    with as_output():
        uid = _uid(config, storage, again, note)
        attempts = _attempts_so_far(storage, job_prefix(config.namespace, config.name, uid))
    return config.model_copy(update={"uid": uid, "attempt": attempts + 1})


def _uid(config: RunConfig, storage: Storage, again: bool, note: Callable[[str], None]) -> str:
    """The first uid of the job whose folder has no result, or has the result of this very job, if it may be adopted."""
    named = f"{config.namespace}/{config.name}/{config.spec_hash}/{_data_digest(config.spec.dataset.source)}"
    want: Wanted | None = None
    for number in itertools.count():
        uid = str(uuid.uuid5(_NAMESPACE, f"{named}/{number}"))
        prefix = job_prefix(config.namespace, config.name, uid)
        found = read_manifest(storage, prefix)
        if found is None:
            return uid
        if again:
            continue
        want = want or _wanted(config)
        fault = found if isinstance(found, str) else (
            result_mismatch(found, want) or asked_for_less(found, config.spec.run_policy)
            or damage(storage, prefix, found))
        if fault is None:
            return uid
        note(f"the result {storage.root.join(prefix)} is not used: {fault}")
    raise AssertionError("itertools.count does not end")


def _wanted(config: RunConfig) -> Wanted:
    """What a result must belong to, with the digest of a model that has no commit."""
    model = config.spec.model
    if model.source.scheme == "hub":
        return wanted(config)
    s3 = config.spec.output.s3
    with tempfile.TemporaryDirectory() as scratch:
        return replace(wanted(config), base_revision=content_digest(model, s3, Path(scratch)),
                       base_description=description_digest(model, s3))


def _data_digest(source: Uri) -> str:
    """The digest of a local data set; empty for any other, which its location identifies."""
    if source.scheme != "file":
        return ""
    lines = (f"{file.name} {file_digest(file)}\n" for file in local_files(source))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _attempts_so_far(storage: Storage, prefix: str) -> int:
    """The number of the last attempt that left a checkpoint or a result; 0 if there is none."""
    parts = [key.removeprefix(f"{prefix}/").split("/") for key in storage.keys(f"{prefix}/")]
    return max((int(part[1]) for part in parts if len(part) > 2 and part[1].isdecimal()), default=0)
