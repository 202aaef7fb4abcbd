"""`finetune-trainer preflight`: checks a job before it gets an accelerator.

It reads rows, tokenizer and configuration, and loads no weights. A job that it refuses ends with the message and the
exit code with which the run would have ended hours later.
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
from finetune_api.values.quantities import hours_in_words

from finetune_trainer.clock import SystemClock
from finetune_trainer.data.rows import LEFT_OUT
from finetune_trainer.errors import failure_of
from finetune_trainer.model.files.content import content_digest, description_digest
from finetune_trainer.publish.adoption import (
    adopted,
    asked_for_less,
    candidates,
    damage,
    date_of,
    result_mismatch,
    stopped_before,
    wanted,
)
from finetune_trainer.run.scratch import new_scratch
from finetune_trainer.storage import as_output, open_storage, probe
from finetune_trainer.training.complete_checkpoints import chat_template_date, require_earlier

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from finetune_trainer.model.files.description import Description

_GIB = 1024**3


@dataclass(frozen=True)
class PreflightEnd:
    """How a preflight ended: its exit code and its result message."""

    code: ExitCode
    result: PreflightResult


def preflight(config: RunConfig, note: Callable[[str], None]) -> PreflightEnd:
    """Check a job. Only exceptions that end the process, such as SystemExit, are raised.

    Args:
        config: the run configuration.
        note: receives notes for people.
    """
    scratch = new_scratch()
    try:
        return PreflightEnd(ExitCode.OK, _check(config, scratch, note))
    except Exception as error:
        failure = failure_of(error)
        return PreflightEnd(failure.exit_code, _refusal(failure.outcome, failure.message))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _refusal(outcome: Outcome, message: str) -> PreflightResult:
    named = re.match(r"(spec(?:\.[A-Za-z0-9]+)*)(?:: | is )", message)
    return PreflightResult(verdict=PreflightVerdict.REFUSED, reason=outcome, message=message,
                           field=named[1] if named else None)


def _check(config: RunConfig, scratch: Path, note: Callable[[str], None]) -> PreflightResult:
    # Imported late: they load torch and transformers, and a wrong configuration needs neither.
    from finetune_trainer.evaluation.reference.asking import check_reference
    from finetune_trainer.model.files.description import describe_model
    from finetune_trainer.model.loading.base import open_base
    from finetune_trainer.model.loading.stored_quantization import stored_quantization
    from finetune_trainer.run.checks.accelerator_choice import choose_accelerator
    from finetune_trainer.run.checks.inputs import (
        check_embeddings,
        check_positions,
        check_shares,
        load_tokenizer_and_chat_format,
        read_rows,
    )
    from finetune_trainer.run.checks.job_estimate import estimate_training
    from finetune_trainer.run.checks.rehearsal import rehearse

    spec = config.spec
    storage = open_storage(spec.output.uri, spec.output.s3)
    probe(storage, job_prefix(config.namespace, config.name, config.uid))
    check_shares(spec, spec.compute.processes(config.accelerator.name))
    day = chat_template_date(storage, config, SystemClock().now().date())
    description = describe_model(spec.model, spec.output.s3, scratch, note)
    base = open_base(description.files.folder, description.source)
    tokenizer, chat = load_tokenizer_and_chat_format(spec, description.files, day)
    data, _ = read_rows(config, base.content, chat, scratch, note)
    revision, data_hash = description.files.revision or None, data.digest()

    def data_hash_on(other: date) -> str:
        if other == day or not chat.is_dated:
            return data_hash
        dated = load_tokenizer_and_chat_format(spec, description.files, other)[1]
        return read_rows(config, base.content, dated, scratch, lambda text: None)[0].digest()

    if spec.run_policy.rerun is not RerunPolicy.ALWAYS:
        published = _published(config, description, data_hash_on, scratch, note)
        if published is not None:
            return _adopting(published, revision, data_hash)
    resumed = require_earlier(storage, config, data_hash)
    model = base.empty()
    check_embeddings(model, data, tokenizer, description.source)
    check_positions(spec, model, data, description.source)
    _check_targets(config, model)
    lengths = [len(row) for row in data.train]
    config, choice = choose_accelerator(config, base.content, lengths)
    estimate = estimate_training(config, base.content, lengths)
    stored_quantization(base.config, spec.method.quantization, base.source)
    if (weights := description.held()) is not None:
        base.check(weights, spec.method.quantization)
    rehearsal = rehearse(config, base, description.files.folder, data, tokenizer, scratch)
    if rehearsal.skipped:
        note(rehearsal.skipped)
    if rehearsal.training != spec.training:
        # The run will train like this too: its passes are other ones than those that were estimated.
        config = config.model_copy(update={"spec": spec.model_copy(update={"training": rehearsal.training})})
        estimate = estimate_training(config, base.content, lengths)
    words = [_summary(config, estimate, data.counts), *rehearsal.findings]
    if choice:
        words.append(choice.reason)
    if isinstance(resumed, str):
        words.append(f"{resumed}; if there is none when the job starts, it trains from the start")
    elif resumed:
        words.append(f"resumes from step {resumed.step}, from the checkpoint {resumed.folder}")
    if warning := check_reference(spec, data.held_out, SystemClock()):
        note(warning)
        words.append(warning)
    return PreflightResult(verdict=PreflightVerdict.PASSED, reason=Outcome.SUCCEEDED, estimate=estimate,
                           message="; ".join(words), model_revision=revision, data_hash=data_hash,
                           accelerator=choice)


def _summary(config: RunConfig, estimate: JobEstimate | None, counts: Mapping[str, int]) -> str:
    rows = f"{counts['train']} training rows, {counts['heldOut']} held-out rows"
    left_out = [f"{counts[name]} {words}" for name, words in {"cut": "cut", **LEFT_OUT}.items() if counts.get(name)]
    if left_out:
        rows += f" ({', '.join(left_out)})"
    if estimate is None:
        return f"{rows}; memory and time are not estimated, because the model's architecture is unknown here"
    return (f"{rows}; estimates: {estimate.memory_bytes / _GIB:.1f} GiB on {config.accelerator.name} with "
            f"{estimate.micro_batch_size} rows per forward pass, {hours_in_words(estimate.hours)} h of training, "
            f"{estimate.cost} {config.accelerator.currency}")


def _check_targets(config: RunConfig, model: PreTrainedModel) -> None:
    """Check that the layers and parameters that the job names exist, and that ReFT can sample from the model.

    Args:
        config: the run configuration.
        model: the model, on the meta device.

    Raises:
        BadConfig: a name does not exist (the message lists those that do), or the model gives back no cache.
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
               note: Callable[[str], None]) -> Result | None:
    """The result of an earlier job of this name on the same base and rows, or None.

    A chat template may write the date: then the rows are compared as they were on the day of that result. If a model
    has no commit, its weights are read, but only if everything else is the same: training again costs more.
    """
    spec = config.spec
    storage = open_storage(spec.output.uri, spec.output.s3)
    want = replace(wanted(config), base_revision=description.files.revision or None,
                   base_description=description_digest(spec.model, spec.output.s3))
    for prefix, manifest in candidates(storage, want, note):
        if spec.run_policy.resume_from and stopped_before(manifest.result, spec.run_policy.stop_after):
            continue  # The job resumes what was stopped.
        want = replace(want, data_hash=data_hash_on(date_of(manifest)))
        fault = result_mismatch(manifest, want) or asked_for_less(manifest, spec.run_policy)
        if fault is None and want.base_revision is None:
            want = replace(want, base_revision=content_digest(spec.model, spec.output.s3, scratch))
        with as_output():
            fault = fault or result_mismatch(manifest, want) or damage(storage, prefix, manifest)
        if fault is None:
            return adopted(storage, prefix, manifest)
        note(f"the result {prefix} is not used: {fault}")
    return None


def _adopting(published: Result, revision: str | None, data_hash: str) -> PreflightResult:
    """The answer if a result is published already: the job ends as the job that published it, for the same reason."""
    ends = {Outcome.QUALITY_GATE: ("missed its quality gate", ""),
            Outcome.STOPPED_EARLY: ("stopped early", "; runPolicy.resumeFrom resumes it")}
    words = (f"this job was already trained, with the same base model and rows: {published.manifest}; "
             "runPolicy.rerun: Always trains again")
    if published.outcome in ends:
        how, cure = ends[published.outcome]
        words = (f"this job was already trained, with the same base model and rows, and {how}: "
                 f"{published.message.rstrip('.')}. Its result is at {published.manifest}{cure}")
    return PreflightResult(verdict=PreflightVerdict.ALREADY_PUBLISHED, reason=published.outcome, published=published,
                           message=words, model_revision=revision, data_hash=data_hash)
