"""`finetune-trainer preflight`: everything that can be known of a job before an accelerator is asked for.

Reads rows, tokenizer and configuration; loads no weights. Whatever ends it has the words and the exit code that the
run would have ended with, hours later.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from finetune_api.exit_codes import ExitCode
from finetune_api.layout import MANIFEST, job_prefix
from finetune_api.messages import JobEstimate, Manifest, Outcome, PreflightResult, PreflightVerdict, Result, RunConfig
from finetune_api.spec.policy import RerunPolicy
from pydantic import ValidationError

from finetune_trainer.data.chat import ChatFormat
from finetune_trainer.data.prepare import prepare
from finetune_trainer.entry import new_scratch
from finetune_trainer.errors import BadConfig, TrainerError
from finetune_trainer.storage import Storage, as_output, open_storage, probe

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
    except TrainerError as error:
        return Checked(error.exit_code, _refusal(error.outcome, str(error)))
    except OSError as error:
        place = f" ({error.filename})" if error.filename else ""
        return Checked(ExitCode.INTERNAL, _refusal(Outcome.INTERNAL, f"the machine refused: {error.strerror}{place}"))
    except Exception as error:
        line = (str(error).strip().splitlines() or [""])[0]
        return Checked(ExitCode.INTERNAL, _refusal(Outcome.INTERNAL,
                                                   f"something unforeseen: {type(error).__name__}: {line}"))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _refusal(outcome: Outcome, message: str) -> PreflightResult:
    named = re.match(r"(spec(?:\.[A-Za-z0-9]+)*): ", message)
    return PreflightResult(verdict=PreflightVerdict.REFUSED, reason=outcome, message=message,
                           field=named[1] if named else None)


def _check(config: RunConfig, scratch: Path, tell: Callable[[str], None]) -> PreflightResult:
    # Imported late: they need torch and transformers, and a wrong configuration should be told at once.
    from finetune_trainer.evaluation.constrained import SchemaGuide
    from finetune_trainer.expectations import expect
    from finetune_trainer.model.description import describe_model
    from finetune_trainer.model.load import load_tokenizer

    spec = config.spec
    storage = open_storage(spec.output.uri, spec.output.s3)
    probe(storage, job_prefix(config.namespace, config.name, config.uid))
    compute = spec.compute
    processes = compute.nodes * (1 if config.accelerator.name == "cpu" else compute.gpus_per_node)
    if spec.training.batch_size % processes:
        raise BadConfig(f"spec.training.batchSize: {spec.training.batch_size} rows can't be shared equally among "
                        f"{processes} processes; write a multiple of that")
    description = describe_model(spec.model, spec.output.s3, scratch, tell)
    tokenizer = load_tokenizer(description.files)
    chat = ChatFormat(tokenizer, spec.dataset.system)
    schema = spec.dataset.answer_format.json_schema
    if spec.evaluation.constrained and schema is not None:
        SchemaGuide(tokenizer, schema, chat.end_of_turn)
    data = prepare(spec, chat, scratch)
    for finding in data.findings[:5]:
        tell(f"warning: {finding}")
    revision, data_hash = description.files.revision or None, data.digest()
    published = None if spec.run_policy.rerun is RerunPolicy.ALWAYS else _published(config, storage, data_hash)
    if published is not None:
        return PreflightResult(
            verdict=PreflightVerdict.ALREADY_PUBLISHED, reason=Outcome.ALREADY_PUBLISHED, published=published,
            message=f"the same job on the same rows is published already: {published.manifest}; runPolicy.rerun: "
                    "Always trains again", model_revision=revision, data_hash=data_hash)
    _check_targets(config, description.files.folder)
    estimate = expect(config, description.config, [len(row) for row in data.train])
    description.check_weights()
    return PreflightResult(verdict=PreflightVerdict.PASSED, reason=Outcome.SUCCEEDED, estimate=estimate,
                           message=_words(config, estimate, data.counts), model_revision=revision,
                           data_hash=data_hash)


def _words(config: RunConfig, estimate: JobEstimate | None, counts: Mapping[str, int]) -> str:
    rows = f"{counts['train']} rows to learn from, {counts['heldOut']} held out"
    if left_out := [f"{counts[name]} {name}" for name in ("cut", "dropped", "duplicates") if counts.get(name)]:
        rows += f" ({', '.join(left_out)})"
    if estimate is None:
        return f"{rows}; the model's family is not known here, so memory and time are not estimated"
    return (f"{rows}; about {estimate.memory_bytes / _GIB:.1f} GiB on {config.accelerator.name} with "
            f"{estimate.micro_batch_size} rows in a pass, {estimate.hours:.2g} h of training, {estimate.cost} "
            f"{config.accelerator.currency} (estimates)")


def _check_targets(config: RunConfig, folder: Path) -> None:
    """Whether the layers that an adapter wants exist, on a model without storage for its weights.

    Raises:
        BadConfig: a layer that there is none of, or a model that is not known.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from finetune_trainer.model.targets import target_modules

    method = config.spec.method
    settings = method.lora or method.dora
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), trust_remote_code=False)
    except (ValueError, OSError, KeyError, ImportError) as error:
        line = (str(error).strip().splitlines() or [""])[0]
        raise BadConfig(f"spec.model.source: the model can't be loaded: {line}") from error
    if settings is not None:
        target_modules(model, settings.target_modules, f"spec.method.{'lora' if method.lora else 'dora'}")


def _published(config: RunConfig, storage: Storage, data_hash: str) -> Result | None:
    """A finished result of a job of this name with the same spec and rows, from another cluster or another life."""
    with as_output():
        keys = [key for key in storage.keys(f"{config.namespace}/{config.name}/")
                if key.count("/") == 3 and key.endswith(f"/{MANIFEST}")]
        for key in keys:
            try:
                manifest = Manifest.model_validate_json(storage.get_bytes(key) or b"")
            except ValidationError:
                continue
            if (manifest.spec_hash, manifest.data_hash) == (config.spec_hash, data_hash):
                return manifest.result.model_copy(update={"outcome": Outcome.ALREADY_PUBLISHED})
    return None
