"""Adopts a result that is already published. Everything in a manifest that can be checked is checked.

Anybody who may write to an output can put a manifest there. A manifest is used only if it belongs to this job (the same
namespace, name, spec, rows and base model), names only files below its own folder, and these files exist with the same
digests.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date

from finetune_api.messages import Manifest, Outcome, PublishedFile, Result, RunConfig
from finetune_api.messages.layout import MANIFEST, REPORT, job_prefix
from finetune_api.spec.policy import RunPolicy
from pydantic import ValidationError

from finetune_trainer.data.batches.steps import stop_step
from finetune_trainer.errors import BadConfig, OutputNotWritable, TrainerError
from finetune_trainer.storage import Storage, as_output

_PUBLISHED = {Outcome.SUCCEEDED, Outcome.QUALITY_GATE, Outcome.STOPPED_EARLY, Outcome.ALREADY_PUBLISHED}


@dataclass(frozen=True)
class Wanted:
    """What a published result must match.

    Attributes:
        namespace: the namespace of the job.
        name: the name of the job.
        spec_hash: digest of everything in the spec that decides the result.
        base_model: location of the base model.
        base_revision: its commit, or the digest of its weights; None if not known yet.
        base_description: digest of its configuration and tokenizer; None if not known yet, or if the revision covers
            it.
        data_hash: digest of the prepared rows; None if not known yet.
    """

    namespace: str
    name: str
    spec_hash: str
    base_model: str
    base_revision: str | None = None
    base_description: str | None = None
    data_hash: str | None = None


def wanted(config: RunConfig) -> Wanted:
    """What is known of a job before its model and rows are read: of a hub's model the commit, if the job sets one."""
    model = config.spec.model
    commit = model.revision if model.source.scheme == "hub" and re.fullmatch("[0-9a-f]{40}", model.revision or "") \
        else None
    return Wanted(config.namespace, config.name, config.spec_hash, str(model.source), commit)


def published_result(storage: Storage, prefix: str, want: Wanted) -> Result | None:
    """The published result in the job's own folder, which can hold only one; None if there is none.

    Raises:
        OutputNotWritable: the output cannot be read, or the folder holds something else than this job's result.
    """
    with as_output():
        found = read_manifest(storage, prefix)
        if found is None:
            return None
        fault = found if isinstance(found, str) else result_mismatch(found, want) or damage(storage, prefix, found)
    if fault is not None or isinstance(found, str):
        raise OutputNotWritable(f"{storage.root.join(prefix, MANIFEST)} is not this job's result: {fault}. It is not "
                                "changed. Remove it, choose another spec.output.uri, or use `finetune run --rerun`")
    return adopted(storage, prefix, found)


def published_report(storage: Storage, prefix: str) -> str | None:
    """The location of the report of a published result; None if it has none.

    Args:
        storage: the job's output.
        prefix: the job's folder there.

    Raises:
        MissingInput: the manifest cannot be read.
    """
    manifest = read_manifest(storage, prefix)
    path = manifest.path_of(REPORT) if isinstance(manifest, Manifest) else None
    return str(storage.root.join(prefix, path)) if path else None


def candidates(storage: Storage, want: Wanted, tell: Callable[[str], None]) -> list[tuple[str, Manifest]]:
    """Results of jobs of this namespace and name that fit as far as is known, with their folders, the newest first.

    Those that don't are passed over, and said.

    Raises:
        OutputNotWritable: the output can't be listed.
    """
    with as_output():
        keys = storage.keys(f"{want.namespace}/{want.name}/")
    fitting = []
    for key in keys:
        prefix, _, name = key.rpartition("/")
        if name != MANIFEST or prefix.count("/") != 2:
            continue
        try:
            found = read_manifest(storage, prefix)
        except TrainerError as error:
            found = str(error)
        fault = result_mismatch(found, want) if isinstance(found, Manifest) else found
        if fault:
            tell(f"the result {prefix} is not used: {fault}")
        elif isinstance(found, Manifest):
            fitting.append((prefix, found))
    return sorted(fitting, key=lambda one: one[1].created.timestamp(), reverse=True)


def read_manifest(storage: Storage, prefix: str) -> Manifest | str | None:
    """The manifest in a job's folder, or a sentence about what is wrong with it; None if there is none.

    Raises:
        MissingInput: it cannot be read.
    """
    content = storage.get_bytes(f"{prefix}/{MANIFEST}")
    if content is None:
        return None
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError:
        return "its manifest is not valid"
    adapter = manifest.result.adapter
    if prefix != job_prefix(manifest.namespace, manifest.name, manifest.uid):
        return f"its manifest belongs to {manifest.namespace}/{manifest.name}/{manifest.uid}"
    if adapter is None or manifest.result.outcome not in _PUBLISHED:
        return "its manifest names no published weights"
    home = f"{storage.root.join(prefix)}/"
    if not adapter.uri.startswith(home):
        return f"its manifest names {adapter.uri}, which is not below {home}"
    digest, size = weights_of(manifest.files, adapter.uri.removeprefix(home))
    if size == 0 or (digest, size) != (adapter.sha256, adapter.size_bytes):
        return "the weights that its manifest names differ from the files that it lists"
    return manifest


def result_mismatch(manifest: Manifest, want: Wanted) -> str | None:
    """Why a manifest doesn't speak of what is wanted, or None. Pure."""
    for what, mine, its in (
        ("namespace", want.namespace, manifest.namespace), ("name", want.name, manifest.name),
        ("spec", want.spec_hash, manifest.spec_hash), ("base model", want.base_model, manifest.base_model),
        ("revision of the base model", want.base_revision, manifest.base_revision),
        ("data", want.data_hash, manifest.data_hash),
    ):
        if mine is not None and mine != its:
            return f"it belongs to another {what}" if what != "data" else "it belongs to other data"
    if want.base_description and manifest.base_description not in (want.base_description, None):
        return "it belongs to a base model with another configuration, tokenizer or chat template"
    return None  # Manifests of earlier releases have no description.


def stopped_before(result: Result, share: float | None) -> bool:
    """Whether a result was stopped early, and before the share of the steps that a job trains.

    Args:
        result: the result.
        share: the job's `runPolicy.stopAfter`.
    """
    if result.outcome is not Outcome.STOPPED_EARLY:
        return False
    return share is None or result.total_steps is None or result.step < stop_step(result.total_steps, share)


def asked_for_less(manifest: Manifest, policy: RunPolicy) -> str | None:
    """Why a result is less than a job asks for, or None: it is that of a smaller `runPolicy.stopAfter`. Pure.

    A result that a limit stopped is adopted: the job would stop there again.
    """
    try:
        share = RunPolicy.model_validate(manifest.run["spec"]["runPolicy"], strict=False).stop_after
    except (LookupError, TypeError, ValidationError):
        return None  # An earlier release wrote it, which had no such field.
    if share is None or share == policy.stop_after or not stopped_before(manifest.result, policy.stop_after):
        return None
    return (f"it was trained for {share:g} of the steps (runPolicy.stopAfter); to train only the rest, set "
            f"runPolicy.resumeFrom: {manifest.name}")


def date_of(manifest: Manifest) -> date:
    """The date that the chat template wrote into the rows of a result. Earlier releases recorded none: then the day of
    the run."""
    try:
        return date.fromisoformat(str(manifest.run.get("date")))
    except ValueError:
        return manifest.created.date()


def damage(storage: Storage, prefix: str, manifest: Manifest) -> str | None:
    """The first file of a result that is missing or differs from its manifest, in words; None if all are right.

    Raises:
        MissingInput: a file cannot be read.
    """
    for file in manifest.files:
        try:
            found = storage.digest(f"{prefix}/{file.path}")
        except BadConfig as error:  # A link to elsewhere.
            return str(error)
        if found is None:
            return f"{file.path} is missing"
        if (found.sha256, found.size_bytes) != (file.sha256, file.size_bytes):
            return f"{file.path} is damaged"
    return None


def adopted(storage: Storage, prefix: str, manifest: Manifest) -> Result:
    """A result as that of a job that takes it over: a gate that was missed stays missed, and an early stop one.

    Where it is, and of which base, is told as it was compared.
    """
    result, adapter = manifest.result, manifest.result.adapter
    assert adapter is not None
    kept = result.outcome in (Outcome.QUALITY_GATE, Outcome.STOPPED_EARLY)
    return result.model_copy(update={
        "outcome": result.outcome if kept else Outcome.ALREADY_PUBLISHED,
        "message": f"{result.message} (an earlier run of the same job; runPolicy.rerun: Always trains again)"
                   if kept else result.message,
        "adapter": adapter.model_copy(update={"base_model": manifest.base_model,
                                              "base_revision": manifest.base_revision}),
        "manifest": str(storage.root.join(prefix, MANIFEST)),
    })


def weights_of(files: Sequence[PublishedFile], folder: str) -> tuple[str, int]:
    """Digest and size of the weights in a folder of a result; of a large model's files, the digest of theirs."""
    weights = [file for file in files if file.path.startswith(f"{folder}/") and file.path.endswith(".safetensors")]
    digest = weights[0].sha256 if len(weights) == 1 else \
        hashlib.sha256("".join(file.sha256 for file in weights).encode()).hexdigest()
    return digest, sum(file.size_bytes for file in weights)
