"""A rehearsal: the job on a small copy of its model, from loading to reading back what would be published.

Whatever would end a run after it began is found here, on a CPU in seconds: an architecture that a method can't be
attached to, layers that can't be trained, a configuration that can't be written.
"""

from __future__ import annotations

import shutil
import warnings
from dataclasses import replace
from decimal import Decimal
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from finetune_api.messages import Limits, RunConfig
from finetune_api.methods.reft import ReftPolicy
from finetune_api.spec.job import FineTuneJobSpec
from finetune_api.spec.method import (
    DoraSpec,
    Engine,
    LoraSpec,
    MethodSpec,
    MethodType,
    PartialSpec,
    Quantization,
)
from finetune_api.spec.output import Export
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
from finetune_trainer.publish.export import export_merged, export_trained
from finetune_trainer.storage import BackgroundUploader
from finetune_trainer.storage.local import LocalStorage
from finetune_trainer.trained_model.peft_adapter import PeftAdapter
from finetune_trainer.trained_model.whole_model import make_generation_writable
from finetune_trainer.training.checkpoints import CheckpointStore
from finetune_trainer.training.complete import Identity
from finetune_trainer.training.packing import settle_packing
from finetune_trainer.training.training_run import TrainingRun

_CPU = Device(torch.device("cpu"), torch.float32, "sdpa")
_ROWS, _TOKENS, _ANSWER = 2, 12, 3
_NOBODY = Identity("0" * 64, "0" * 64, "0" * 64, {})
_RANK, _VIRTUAL, _SIZE = 4, 4, 8


def rehearse(config: RunConfig, base: Base, folder: Path, data: PreparedData, tokenizer: PreTrainedTokenizerBase,
             scratch: Path) -> str | None:
    """Go through a job with a small copy of its model.

    Args:
        config: the run configuration.
        base: the model.
        folder: its configuration and tokenizer.
        data: the prepared rows, of which a few tokens are used.
        tokenizer: the model's.
        scratch: where to write.

    Returns:
        Why nothing can be said of this architecture; None where all went well.

    Raises:
        TrainerError: what the run would end with.
        BadConfig: also for what a library raises of this architecture and method.
    """
    if config.spec.engine is Engine.UNSLOTH:
        return "Unsloth runs on GPUs alone, so that the job was not rehearsed"
    with warnings.catch_warnings():
        # They are for who writes programs, and the run does not show them either.
        warnings.simplefilter("ignore")
        return _rehearse(config, base, folder, data, tokenizer, scratch / "rehearsal")


def _rehearse(config: RunConfig, base: Base, folder: Path, data: PreparedData, tokenizer: PreTrainedTokenizerBase,
              place: Path) -> str | None:
    few, pad, end, vocabulary = _few_rows(data, tokenizer)
    found = _copy(base, folder, place / "model", few, vocabulary)
    if found is None:
        return f"{base.model_class.__name__} was not rehearsed: no small copy of it can be made"
    spec = _small_spec(config.spec, found)
    del found
    method = f"{config.spec.method.type} with quantization {config.spec.method.quantization}"
    try:
        _go_through(spec, ModelFiles(place / "model", "", base.source), few, (pad, end), tokenizer, place)
    except TrainerError:
        raise
    except Exception as error:
        raise BadConfig(f"spec.method: {method} can't train a {base.model_class.__name__}, as a small copy of it "
                        f"showed ({type(error).__name__}: {first_line(error)}); choose another method or another model"
                        ) from error
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return None


def _few_rows(data: PreparedData, tokenizer: PreTrainedTokenizerBase) -> tuple[PreparedData, int, int, int]:
    """The ends of a few rows in a vocabulary of their own; and its pad token, an end token, and its size."""
    rows = [TokenRow(row.prompt[-_TOKENS:], row.answer[:_TOKENS]) for row in data.train[:_ROWS]]
    special = [int(tokenizer.pad_token_id), int(tokenizer.eos_token_id)]
    ids = {token: index for index, token in enumerate(sorted(
        {*special, *(token for row in rows for token in (*row.prompt, *row.answer))}))}
    few = tuple(TokenRow(remapped(ids, row.prompt), remapped(ids, row.answer)) for row in rows)
    return (replace(data, train=few * _ROWS, held_out=()), ids[special[0]], ids[special[1]], max(64, len(ids)))


def _copy(base: Base, folder: Path, place: Path, few: PreparedData, vocabulary: int) -> PreTrainedModel | None:
    """Write the smallest copy of a model that can be made and computes something, with the model's other files."""
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
        except Exception:  # The copy may be at fault, and not the architecture.
            continue
        if looks_ahead(model, ids):
            raise BadConfig(f"spec.model.source: {base.source} is a {base.model_class.__name__} that reads what comes "
                            "after a token too, and so no causal language model; take one that isn't an encoder")
        model.zero_grad()
        place.mkdir(parents=True)
        for path in folder.iterdir():
            if path.is_file() and path.suffix != ".safetensors" and path.name not in ("config.json", INDEX):
                shutil.copyfile(path, place / path.name)
        kept = place / "generation_config.json"
        settings = kept.read_bytes() if kept.exists() else None
        make_generation_writable(model)
        model.save_pretrained(place)
        # As the model's author wrote it: it may be what can't be written again.
        if settings is not None:
            kept.write_bytes(settings)
        return model
    return None


def _small_spec(spec: FineTuneJobSpec, model: PreTrainedModel) -> FineTuneJobSpec:
    """The job with its sizes made small; fields that name a layer, which the copy may lack, are left to all layers."""
    training = spec.training.model_copy(update={
        "epochs": None, "max_steps": 1, "batch_size": 2 * _ROWS, "micro_batch_size": _ROWS, "checkpoint_every": 1})
    return spec.model_copy(update={"training": training, "method": _small_method(spec.method, model)})


def _small_method(method: MethodSpec, model: PreTrainedModel) -> MethodSpec:
    if method.partial is not None:
        return method.model_copy(update={"partial": _small_partial(method.partial, model)})
    if (additive := method.additive) is not None:
        return method.model_copy(update={"additive": additive.model_copy(update={
            "virtual_tokens": additive.virtual_tokens and _VIRTUAL,
            "bottleneck_size": additive.bottleneck_size and _SIZE,
            "target_modules": _ends(additive.target_modules)})})
    if method.low_rank is None:
        return method if method.reft is None else MethodSpec(type=MethodType.FULL)
    _, settings = method.low_rank
    small = settings.model_copy(update={"rank": min(settings.rank, _RANK),
                                        "target_modules": _ends(settings.target_modules)})
    if method.reft is None:
        return method.model_copy(update={"lora" if method.lora else "dora": small})
    # PPO trains what the warm-up trains.
    if method.reft.policy is ReftPolicy.DORA:
        return MethodSpec(type=MethodType.DORA, quantization=method.quantization,
                          dora=DoraSpec(**small.model_dump()))
    return MethodSpec(type=MethodType.LORA, quantization=method.quantization, lora=LoraSpec(**small.model_dump()))


def _ends(targets: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Names of layers without the numbers, which the copy may not have."""
    return targets and tuple(dict.fromkeys(target.rpartition(".")[2] for target in targets))


def _small_partial(partial: PartialSpec, model: PreTrainedModel) -> PartialSpec:
    names = [name for name, _ in model.named_parameters()]
    if partial.parameters is not None and all(any(fnmatchcase(name, pattern) for name in names)
                                              for pattern in partial.parameters):
        return partial
    return PartialSpec(last_layers=1)


def _go_through(spec: FineTuneJobSpec, files: ModelFiles, few: PreparedData, special: tuple[int, int],
                tokenizer: PreTrainedTokenizerBase, place: Path) -> None:
    """Load, train one step, answer, export and read back."""
    clock: Clock = SystemClock()
    state = RunState(clock, Price(Decimal(0), "USD"), Decimal(0), None)
    quantization = spec.method.quantization
    model = load_model(files, quantization, _CPU)
    storage = LocalStorage(Uri("file", "", str(place / "out")), place / "out")
    with BackgroundUploader() as uploader:
        settled, _ = settle_packing(spec, model, few.train, World(), lambda text: None)
        trained = METHODS[spec.method.type](TrainingRun(
            spec=settled, model=model, tokenizer=tokenizer, data=few, device=_CPU, identity=_NOBODY,
            checkpoints=CheckpointStore(storage, "job", 1, uploader, lambda text: None), uploader=uploader, state=state,
            metrics=MetricsLog(place / "metrics.jsonl", clock), limits=LimitsFile(None, Limits()),
            reserve=Decimal(0), stop=StopFlag(), scratch=place, clock=clock,
            reload=lambda: load_model(files, quantization, _CPU)))
        uploader.drain()
    trained_model = trained.trained_model
    generate(trained_model.model, [row.prompt for row in few.train[:2]],
             GenerationSettings((special[1],), pad_id=special[0], max_new_tokens=_ANSWER, batch_size=2), lambda: None)
    published = place / "results" / trained_model.folder
    export_trained(trained_model, "model", None, published)
    if isinstance(trained_model, PeftAdapter):
        PeftModel.from_pretrained(load_model(files, quantization, _CPU), str(published))
    elif (published / "config.json").exists():
        check_base(ModelFiles(published, "", "what would be published"), quantization)
    if Export.MERGED in spec.output.exports:
        export_merged(trained_model, published, files, quantization, _CPU, tokenizer, place / "merged")
        check_base(ModelFiles(place / "merged", "", "the merged model"), Quantization.NONE)
