"""`finetune-trainer preflight`: everything that can be known of a job before an accelerator is asked for.

Reads rows, tokenizer and configuration; loads no weights. Whatever ends it has the words and the exit code that the
run would have ended with, hours later.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from finetune_api.exit_codes import ExitCode
from finetune_api.messages import JobEstimate, Outcome, PreflightResult, PreflightVerdict, Result, RunConfig
from finetune_api.messages.layout import job_prefix
from finetune_api.spec.policy import RerunPolicy

from finetune_trainer.clock import SystemClock
from finetune_trainer.data.rows import LEFT_OUT
from finetune_trainer.errors import failure_of
from finetune_trainer.model.files.content import content_digest, description_digest
from finetune_trainer.publish.adoption import adopted, candidates, damage, date_of, misfit, wanted
from finetune_trainer.run.entry import new_scratch
from finetune_trainer.storage import as_output, open_storage, probe
from finetune_trainer.training.complete import frozen_date, require_earlier

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from finetune_trainer.model.files.description import Description

_GIB = 1024**3


@dataclass(frozen=True)
class Checked:
    """How a preflight ended."""

    code: ExitCode
    result: PreflightResult


def preflight(config: RunConfig, tell: Callable[[str], None]) -> Checked:
    """Check a job; nothing is raised but what ends the process.

    Args:
        config: the run configuration.
        tell: what to do with notes for people.
    """
    scratch = new_scratch()
    try:
        return Checked(ExitCode.OK, _check(config, scratch, tell))
    except Exception as error:
        failure = failure_of(error)
        return Checked(failure.exit_code, _refusal(failure.outcome, failure.message))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _refusal(outcome: Outcome, message: str) -> PreflightResult:
    named = re.match(r"(spec(?:\.[A-Za-z0-9]+)*): ", message)
    return PreflightResult(verdict=PreflightVerdict.REFUSED, reason=outcome, message=message,
                           field=named[1] if named else None)


def _check(config: RunConfig, scratch: Path, tell: Callable[[str], None]) -> PreflightResult:
    # Imported late: they need torch and transformers, and a wrong configuration should be told at once.
    from finetune_trainer.evaluation.reference.asking import check_reference
    from finetune_trainer.model.files.description import describe_model
    from finetune_trainer.model.loading.base import open_base
    from finetune_trainer.model.loading.stored_quantization import stored_quantization
    from finetune_trainer.run.expectations import expect
    from finetune_trainer.run.inputs import check_embeddings, check_positions, check_shares, open_chat, read_rows
    from finetune_trainer.run.rehearsal import rehearse

    spec = config.spec
    storage = open_storage(spec.output.uri, spec.output.s3)
    probe(storage, job_prefix(config.namespace, config.name, config.uid))
    check_shares(spec, spec.compute.processes(config.accelerator.name))
    day = frozen_date(storage, config, SystemClock().now().date())
    description = describe_model(spec.model, spec.output.s3, scratch, tell)
    base = open_base(description.files.folder, description.source)
    tokenizer, chat = open_chat(spec, description.files, day)
    data, _ = read_rows(config, description.files, chat, scratch, tell)
    revision, data_hash = description.files.revision or None, data.digest()

    def data_hash_on(other: date) -> str:
        if other == day or not chat.is_dated:
            return data_hash
        then = open_chat(spec, description.files, other)[1]
        return read_rows(config, description.files, then, scratch, lambda note: None)[0].digest()

    if spec.run_policy.rerun is not RerunPolicy.ALWAYS:
        published = _published(config, description, data_hash_on, scratch, tell)
        if published is not None:
            return _adopting(published, revision, data_hash)
    resumed = require_earlier(storage, config, data_hash)
    model = base.empty()
    check_embeddings(model, data, tokenizer, description.source)
    check_positions(spec, model, data, description.source)
    _check_targets(config, model)
    estimate = expect(config, description.config, [len(row) for row in data.train])
    stored_quantization(base.config, spec.method.quantization, base.source)
    if (held := description.held()) is not None:
        base.check(held, spec.method.quantization)
    unknown = rehearse(config, base, description.files.folder, data, tokenizer, scratch)
    if unknown:
        tell(unknown)
    words = [_words(config, estimate, data.counts)]
    if resumed:
        words.append(f"goes on from step {resumed.step}, which {resumed.folder} has")
    if warning := check_reference(spec, data.held_out, SystemClock()):
        tell(warning)
        words.append(warning)
    return PreflightResult(verdict=PreflightVerdict.PASSED, reason=Outcome.SUCCEEDED, estimate=estimate,
                           message="; ".join(words), model_revision=revision, data_hash=data_hash)


def _words(config: RunConfig, estimate: JobEstimate | None, counts: Mapping[str, int]) -> str:
    rows = f"{counts['train']} rows to learn from, {counts['heldOut']} held out"
    left_out = [f"{counts[name]} {words}" for name, words in {"cut": "cut", **LEFT_OUT}.items() if counts.get(name)]
    if left_out:
        rows += f" ({', '.join(left_out)})"
    if estimate is None:
        return f"{rows}; the model's family is not known here, so memory and time are not estimated"
    return (f"{rows}; about {estimate.memory_bytes / _GIB:.1f} GiB on {config.accelerator.name} with "
            f"{estimate.micro_batch_size} rows in a pass, {estimate.hours:.2g} h of training, {estimate.cost} "
            f"{config.accelerator.currency} (estimates)")


def _check_targets(config: RunConfig, model: PreTrainedModel) -> None:
    """Whether the layers and parameters that a job names exist, and ReFT can sample, on a model without storage.

    Raises:
        BadConfig: with the names that exist, or for a model that can't be sampled from.
    """
    from finetune_trainer.methods.reft.rollout import check_sampling
    from finetune_trainer.model.structure.layers import chosen_parameters
    from finetune_trainer.model.structure.targets import target_modules

    if config.spec.method.reft:
        check_sampling(model)

    method = config.spec.method
    if method.partial:
        chosen_parameters(model, method.partial)
    if method.additive and method.additive.target_modules:
        target_modules(model, method.additive.target_modules, "spec.method.additive")
    if low_rank := method.low_rank:
        field, settings = low_rank
        target_modules(model, settings.target_modules, f"spec.method.{field}")


def _published(config: RunConfig, description: Description, data_hash_on: Callable[[date], str], scratch: Path,
               tell: Callable[[str], None]) -> Result | None:
    """A finished result of a job of this name on the same base and rows, from another cluster or another life.

    Rows in which a chat template writes the date are compared as they were on that result's day. The weights of a model
    that has no commit are read only where everything else fits: to buy them again costs more.
    """
    spec = config.spec
    storage = open_storage(spec.output.uri, spec.output.s3)
    want = replace(wanted(config), base_revision=description.files.revision or None,
                   base_description=description_digest(spec.model, spec.output.s3))
    for prefix, manifest in candidates(storage, want, tell):
        if spec.run_policy.resume_from and manifest.result.outcome is Outcome.STOPPED_EARLY:
            continue  # What was stopped is to go on.
        want = replace(want, data_hash=data_hash_on(date_of(manifest)))
        fault = misfit(manifest, want)
        if fault is None and want.base_revision is None:
            want = replace(want, base_revision=content_digest(spec.model, spec.output.s3, scratch))
        with as_output():
            fault = fault or misfit(manifest, want) or damage(storage, prefix, manifest)
        if fault is None:
            return adopted(storage, prefix, manifest)
        tell(f"the result {prefix} is passed over: {fault}")
    return None


def _adopting(published: Result, revision: str | None, data_hash: str) -> PreflightResult:
    """The answer where a result is there already: the job ends as the one that published it, and for its reason."""
    how = {Outcome.QUALITY_GATE: "and missed its quality gate",
           Outcome.STOPPED_EARLY: "and was stopped early, and runPolicy.resumeFrom would go on with it"}
    words = (f"the same job on the same base and rows is published already: {published.manifest}; "
             "runPolicy.rerun: Always trains again")
    if published.outcome in how:
        words = (f"the same job on the same base and rows was trained already {how[published.outcome]}: "
                 f"{published.message}; it is published as {published.manifest}")
    return PreflightResult(verdict=PreflightVerdict.ALREADY_PUBLISHED, reason=published.outcome, published=published,
                           message=words, model_revision=revision, data_hash=data_hash)
