"""The first steps of an attempt: inputs, then the base model."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from finetune_api.messages import Stage
from finetune_api.spec.method import Engine
from finetune_api.spec.policy import PreflightPolicy
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from finetune_trainer.data.chat.chat_format import ChatFormat
from finetune_trainer.data.rows import PreparedData
from finetune_trainer.distributed.collectives import World
from finetune_trainer.distributed.rendezvous import connect
from finetune_trainer.engines import unsloth
from finetune_trainer.engines.kernels import TORCH, use_kernels
from finetune_trainer.hardware.device import Device, choose_device, environment, make_deterministic
from finetune_trainer.model.files.content import description_digest
from finetune_trainer.model.files.find import ModelFiles, find_model
from finetune_trainer.model.loading.base import Base, open_base
from finetune_trainer.model.loading.load import describe, load_model, weights_digest
from finetune_trainer.rewards.rewards import Judge
from finetune_trainer.run.attempt.context import Attempt, JobOutput
from finetune_trainer.run.checks.inputs import (
    check_embeddings,
    check_positions,
    load_tokenizer_and_chat_format,
    read_rows,
)
from finetune_trainer.run.checks.job_estimate import estimate_training
from finetune_trainer.training.complete_checkpoints import Identity, require_earlier


@dataclass(frozen=True)
class Inputs:
    """What an attempt reads before any weights.

    Attributes:
        world: the processes that train together.
        device: the device of this process.
        files: the files of the model.
        base: the configuration and the class of the model.
        tokenizer: the tokenizer of the model.
        chat: how the model writes a conversation.
        data: the prepared rows.
        judge: scores responses, if the method has a reward.
        data_hash: the digest of the prepared rows.
        base_description: the digest of the model's configuration, tokenizer and chat template.
    """

    world: World
    device: Device
    files: ModelFiles
    base: Base
    tokenizer: PreTrainedTokenizerBase
    chat: ChatFormat
    data: PreparedData
    judge: Judge | None
    data_hash: str
    base_description: str | None


@dataclass(frozen=True)
class LoadedBase:
    """The base model with its weights.

    Attributes:
        model: the frozen model.
        reload: loads it once more.
        identity: the digests that a checkpoint must have.
        facts: architecture, layers, hidden size, number of parameters, type and kernels, for the report.
    """

    model: PreTrainedModel
    reload: Callable[[], PreTrainedModel]
    identity: Identity
    facts: dict[str, object]


def read_inputs(attempt: Attempt) -> Inputs:
    """Connect to the other processes, then read the model's files, the tokenizer and the rows.

    Raises:
        TrainerError: an input is missing or wrong, or the job does not fit on the accelerator.
    """
    config, spec, state, stop = attempt.config, attempt.config.spec, attempt.state, attempt.stop
    state.enter(Stage.LOADING)
    world = connect(os.environ, attempt.rank, attempt.rendezvous_seconds, stop.check, attempt.clock)
    device = choose_device(spec.training.precision)
    make_deterministic(device)
    files = find_model(spec.model, spec.output.s3, attempt.scratch, state.note)
    # Before the tokenizer, which reads the same config.json: an error in it would be reported as the tokenizer's.
    base = open_base(files.folder, files.name)
    tokenizer, chat = load_tokenizer_and_chat_format(spec, files, config.date)
    stop.check()

    state.enter(Stage.PREPARING_DATA)
    data, judge = read_rows(config, base.content, chat, attempt.scratch, state.note)
    state.note(f"{data.counts['train']} training rows, {data.counts['heldOut']} held-out rows")
    if config.accelerator.memory_bytes and spec.run_policy.preflight is PreflightPolicy.REQUIRED:
        estimate_training(config, base.content, [len(row) for row in data.train], attempt.rank.world_size)
    stop.check()
    return Inputs(world, device, files, base, tokenizer, chat, data, judge, data.digest(),
                  description_digest(spec.model, spec.output.s3))


def load_base(attempt: Attempt, output: JobOutput, inputs: Inputs) -> LoadedBase:
    """Load the weights of the base model, and check the rows and the checkpoint to resume from against it.

    Raises:
        TrainerError: the model cannot be loaded, or does not fit the rows; or there is no checkpoint of the job that
            `runPolicy.resumeFrom` names.
    """
    config, spec, device = attempt.config, attempt.config.spec, inputs.device
    attempt.state.enter(Stage.LOADING)

    def load() -> PreTrainedModel:
        return (load_model(inputs.files, spec.method.quantization, device) if spec.engine is Engine.NATIVE
                else unsloth.load_model(inputs.files, spec, device))

    model = load()
    kernels = use_kernels(model, spec, device, attempt.state.note)
    check_embeddings(model, inputs.data, inputs.tokenizer, inputs.files.name)
    check_positions(spec, model, inputs.data, inputs.files.name)
    identity = Identity(config.spec_hash, inputs.data_hash, weights_digest(model),
                        {**environment(device), "number of processes": str(inputs.world.size),
                         **({} if kernels == TORCH else {"kernels": kernels})})
    require_earlier(output.storage, config, inputs.data_hash, identity.base_hash)
    attempt.stop.check()
    return LoadedBase(model, load, identity, {**describe(model), "kernels": kernels})
