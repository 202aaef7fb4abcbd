"""A rehearsal: runs the job on a small copy of its model, from loading to loading the published files again.

It finds, on a CPU in seconds, what would end a run hours later: an architecture that the method cannot be attached to,
layers that cannot be trained, a configuration that cannot be written.
"""

from __future__ import annotations

import shutil
import warnings
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path

import torch
from finetune_api.messages import Limits, RunConfig
from finetune_api.spec.job import FineTuneJobSpec
from finetune_api.spec.method import Engine, Quantization
from finetune_api.spec.output import Export
from finetune_api.spec.training import TrainingSpec
from finetune_api.values.money import Price
from finetune_api.values.uris import Uri
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from finetune_trainer.clock import Clock, SystemClock
from finetune_trainer.data.rows import PreparedData, TokenRow
from finetune_trainer.distributed.collectives import World
from finetune_trainer.errors import BadConfig, TrainerError, first_line
from finetune_trainer.evaluation.generate import GenerationSettings, generate
from finetune_trainer.hardware.device import Device
from finetune_trainer.methods import METHODS
from finetune_trainer.model.files.find import ModelFiles
from finetune_trainer.model.files.weights import INDEX
from finetune_trainer.model.loading.base import Base
from finetune_trainer.model.loading.load import check_base, load_model
from finetune_trainer.model.structure.small_copy import looks_ahead, remapped, small_configs, small_enough
from finetune_trainer.progress.limits import LimitsFile
from finetune_trainer.progress.metrics_log import MetricsLog
from finetune_trainer.progress.state import RunState
from finetune_trainer.progress.stopping import StopFlag
from finetune_trainer.publish.export import BaseWeights, export_merged, export_trained
from finetune_trainer.run.checks.small_job import ROWS, small_job
from finetune_trainer.storage import BackgroundUploader
from finetune_trainer.storage.local import LocalStorage
from finetune_trainer.trained_model.peft_adapter import PeftAdapter
from finetune_trainer.trained_model.whole_model import make_generation_writable
from finetune_trainer.training.checkpoints import CheckpointStore
from finetune_trainer.training.complete_checkpoints import Identity
from finetune_trainer.training.packing import choose_packing
from finetune_trainer.training.training_run import TrainingRun

_CPU = Device(torch.device("cpu"), torch.float32)
_TOKENS, _ANSWER_TOKENS = 12, 3
_NO_IDENTITY = Identity("0" * 64, "0" * 64, "0" * 64, {})


@dataclass(frozen=True)
class Rehearsal:
    """What a rehearsal found.

    Attributes:
        training: the training settings that the run will use: without packing if the model mixes rows that share a
            line.
        findings: sentences about changed settings.
        skipped: why there was no rehearsal; None if there was one.
    """

    training: TrainingSpec
    findings: tuple[str, ...] = ()
    skipped: str | None = None


def rehearse(config: RunConfig, base: Base, folder: Path, data: PreparedData, tokenizer: PreTrainedTokenizerBase,
             scratch: Path) -> Rehearsal:
    """Run a job on a small copy of its model.

    Args:
        config: the run configuration.
        base: the configuration and the class of the model.
        folder: the folder with its configuration and tokenizer.
        data: the prepared rows; the rehearsal uses a few tokens of them.
        tokenizer: the tokenizer of the model.
        scratch: a folder to write to.

    Raises:
        TrainerError: the run would end with it.
        BadConfig: also if a library refuses this architecture with this method.
    """
    training = config.spec.training
    if config.spec.engine is Engine.UNSLOTH:
        return Rehearsal(training, skipped="the job was not rehearsed, because Unsloth needs a GPU")
    with warnings.catch_warnings():
        # Warnings of libraries are for programmers; the run does not show them either.
        warnings.simplefilter("ignore")
        return _rehearse(config, base, folder, data, tokenizer, scratch / "rehearsal")


def _rehearse(config: RunConfig, base: Base, folder: Path, data: PreparedData, tokenizer: PreTrainedTokenizerBase,
              work: Path) -> Rehearsal:
    training = config.spec.training
    few, pad, end, vocabulary = _few_rows(data, tokenizer)
    copy = _small_copy(base, folder, work / "model", few, vocabulary)
    if copy is None:
        return Rehearsal(training, skipped=f"the job was not rehearsed, because no small copy of a "
                                           f"{base.model_class.__name__} can be made")
    spec = small_job(config.spec, copy)
    del copy
    method = f"{config.spec.method.type} with quantization {config.spec.method.quantization}"
    try:
        packing, findings = _run(spec, ModelFiles(work / "model", "", base.source), few, (pad, end), tokenizer, work)
    except TrainerError:
        raise
    except Exception as error:
        raise BadConfig(f"spec.method: {method} cannot train a {base.model_class.__name__}: a small copy of it failed "
                        f"({type(error).__name__}: {first_line(error)}). Choose another method or another model"
                        ) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return Rehearsal(training.model_copy(update={"packing": packing}), tuple(findings))


def _few_rows(data: PreparedData, tokenizer: PreTrainedTokenizerBase) -> tuple[PreparedData, int, int, int]:
    """The ends of a few rows in a small vocabulary; then its pad token, its end token and its size."""
    rows = [TokenRow(row.prompt[-_TOKENS:], row.answer[:_TOKENS]) for row in data.train[:ROWS]]
    special = [int(tokenizer.pad_token_id), int(tokenizer.eos_token_id)]
    ids = {token: index for index, token in enumerate(sorted(
        {*special, *(token for row in rows for token in (*row.prompt, *row.answer))}))}
    few = tuple(TokenRow(remapped(ids, row.prompt), remapped(ids, row.answer)) for row in rows)
    return (replace(data, train=few * ROWS, held_out=()), ids[special[0]], ids[special[1]], max(64, len(ids)))


def _small_copy(base: Base, folder: Path, target: Path, few: PreparedData, vocabulary: int) -> PreTrainedModel | None:
    """Write the smallest copy of a model that can compute a gradient, with the other files of the model.

    Returns:
        The copy; None if no copy can compute a gradient.

    Raises:
        BadConfig: the model looks at later tokens.
    """
    row = few.train[0]
    ids = torch.tensor([row.prompt + row.answer])
    for config in small_configs(base.config, vocabulary):
        try:
            with torch.device("meta"):
                if not small_enough(base.model_class(config)):
                    continue
            torch.manual_seed(0)
            model = base.model_class(config).eval()
            model(input_ids=ids, labels=ids).loss.backward()
        except Exception:  # The small sizes may be the cause, and not the architecture.
            continue
        if looks_ahead(model, ids):
            raise BadConfig(f"spec.model.source: {base.source} is a {base.model_class.__name__} that also looks at "
                            "later tokens, so it is not a causal (decoder-only) language model. Choose a decoder-only "
                            "model")
        model.zero_grad()
        target.mkdir(parents=True)
        for path in folder.iterdir():
            if path.is_file() and path.suffix != ".safetensors" and path.name not in ("config.json", INDEX):
                shutil.copyfile(path, target / path.name)
        generation = target / "generation_config.json"
        settings = generation.read_bytes() if generation.exists() else None
        make_generation_writable(model)
        model.save_pretrained(target)
        # As the author of the model wrote it: it may be the file that cannot be written again.
        if settings is not None:
            generation.write_bytes(settings)
        return model
    return None


def _run(spec: FineTuneJobSpec, files: ModelFiles, few: PreparedData, special: tuple[int, int],
         tokenizer: PreTrainedTokenizerBase, work: Path) -> tuple[bool, list[str]]:
    """Load, train one step, generate, export, and load the published files again.

    Returns:
        Whether the run packs rows, and sentences about changed settings.
    """
    clock: Clock = SystemClock()
    state = RunState(clock, Price(Decimal(0), "USD"), Decimal(0), None)
    quantization = spec.method.quantization
    model = load_model(files, quantization, _CPU)
    storage = LocalStorage(Uri("file", "", str(work / "out")), work / "out")
    with BackgroundUploader() as uploader:
        packing = choose_packing(spec, model, few.train, World(), lambda text: None)
        trained = METHODS[spec.method.type].train(TrainingRun(
            spec=packing.spec, model=model, tokenizer=tokenizer, data=few, device=_CPU, identity=_NO_IDENTITY,
            by_rows=packing.by_rows,
            checkpoints=CheckpointStore(storage, "job", 1, uploader, lambda text: None), uploader=uploader, state=state,
            metrics=MetricsLog(work / "metrics.jsonl", clock), limits=LimitsFile(None, Limits()),
            reserve=Decimal(0), stop=StopFlag(), scratch=work, clock=clock,
            reload=lambda: load_model(files, quantization, _CPU)))
        uploader.drain()
    trained_model = trained.trained_model
    generation = GenerationSettings((special[1],), pad_id=special[0], max_new_tokens=_ANSWER_TOKENS, batch_size=2)
    generate(trained_model.model, [row.prompt for row in few.train[:2]], generation, lambda: None)
    published = work / "results" / trained_model.folder
    export_trained(trained_model, "model", None, published)
    if isinstance(trained_model, PeftAdapter):
        PeftModel.from_pretrained(load_model(files, quantization, _CPU), str(published))
    elif (published / "config.json").exists():
        check_base(ModelFiles(published, "", "what would be published"), quantization)
    if Export.MERGED in spec.output.exports:
        export_merged(trained_model, published, BaseWeights(files, quantization, _CPU), tokenizer, work / "merged")
        check_base(ModelFiles(work / "merged", "", "the merged model"), Quantization.NONE)
    return packing.spec.training.packing, list(packing.findings)
