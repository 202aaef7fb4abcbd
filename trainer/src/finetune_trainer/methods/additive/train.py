"""Additive methods: IA3, prompt tuning, prefix tuning and bottlenecks. The base model is frozen.

IA3: Liu et al., 2022 (arXiv:2205.05638). Prompt tuning: Lester et al., 2021 (arXiv:2104.08691). Prefix tuning: Li and
Liang, 2021 (arXiv:2101.00190). Bottlenecks: Houlsby et al., 2019 (arXiv:1902.00751).
"""

from __future__ import annotations

import warnings
from itertools import chain, cycle, islice
from typing import Any

import torch
from finetune_api.spec.method import AdditiveSpec, Technique
from peft import (
    IA3Config,
    PeftConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
    PromptTuningInit,
    get_peft_model,
    initialize_kv_prefix_from_past_key_values,
)
from peft.utils.constants import (
    TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING,
    TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING,
)
from transformers import set_seed

from finetune_trainer.errors import BadConfig
from finetune_trainer.methods.additive.bottleneck import add_bottlenecks
from finetune_trainer.methods.additive.bottleneck_adapter import Bottlenecks
from finetune_trainer.model.structure.targets import ia3_targets_by_name, linear_names, target_modules
from finetune_trainer.trained_model import TrainedModel
from finetune_trainer.trained_model.peft_adapter import PeftAdapter
from finetune_trainer.training.result import TrainingResult
from finetune_trainer.training.sft import fine_tune
from finetune_trainer.training.training_run import TrainingRun

_FIELD = "spec.method.additive"


def train(run: TrainingRun) -> TrainingResult:
    """Add the new parameters and train them. Errors as in `fine_tune`; `BadConfig` if they do not fit the model."""
    settings = run.spec.method.additive
    assert settings is not None
    set_seed(run.spec.training.seed)
    add = {Technique.IA3: _ia3, Technique.PROMPT_TUNING: _prompt_tuning, Technique.PREFIX_TUNING: _prefix_tuning,
           Technique.BOTTLENECK: _bottleneck}[settings.technique]
    return fine_tune(run, add(run, settings))


def _ia3(run: TrainingRun, settings: AdditiveSpec) -> TrainedModel:
    """A factor for each output of keys and values, and each input of the last feed-forward layer. It starts at 1."""
    kind = run.model.config.get_text_config().model_type
    usual = TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING.get(kind) or ia3_targets_by_name(run.model)
    if settings.target_modules is None and usual is None:
        raise BadConfig(f"{_FIELD}.targetModules: IA3 has no default layers for the architecture {kind}. Name "
                        f"the layers to scale; these exist: {', '.join(linear_names(run.model))}")
    targets = target_modules(run.model, settings.target_modules or usual, _FIELD)
    feed_forward = TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING.get(kind, ("down_proj", "fc2", "w2"))
    return _attached(run, IA3Config(target_modules=targets, task_type="CAUSAL_LM",
                                    feedforward_modules=[name for name in targets
                                                         if name.rpartition(".")[2] in feed_forward]))


def _prompt_tuning(run: TrainingRun, settings: AdditiveSpec) -> TrainedModel:
    """Embeddings before the text. They start as the embeddings of random tokens of the vocabulary."""
    trained_model = _attached(run, PromptTuningConfig(
        num_virtual_tokens=settings.virtual_tokens, prompt_tuning_init=PromptTuningInit.SAMPLE_VOCAB,
        task_type="CAUSAL_LM"))
    warnings.filterwarnings("ignore", message="Position ids are not supported")
    trained_model.causal.register_forward_pre_hook(_count_positions, with_kwargs=True)
    return trained_model


def _count_positions(module: torch.nn.Module, arguments: Any, inputs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Set positions that do not count padding. PEFT drops the given positions; then the model would count the padding
    between the virtual tokens and a shorter question of a batch.
    """
    mask, states = inputs.get("attention_mask"), inputs.get("inputs_embeds")
    if states is None:
        states = inputs.get("input_ids")
    if inputs.get("position_ids") is None and mask is not None and mask.dim() == 2 and states is not None:
        positions = (mask.long().cumsum(-1) - 1).clamp(min=0)
        inputs = {**inputs, "position_ids": positions[:, -states.shape[1]:]}
    return arguments, inputs


def _prefix_tuning(run: TrainingRun, settings: AdditiveSpec) -> TrainedModel:
    """Keys and values before the text in every layer. They start as those of the first tokens of the training rows.

    In the paper, real activations are the best start. A random start breaks a model that was right before.
    """
    count = settings.virtual_tokens or 0
    tokens = islice(cycle(chain.from_iterable(row.prompt + row.answer for row in run.data.train)), count)
    with run.device.autocast(), torch.inference_mode():
        first = run.model(input_ids=torch.tensor([list(tokens)], device=run.model.device), use_cache=True)
    trained_model = _attached(run, PrefixTuningConfig(num_virtual_tokens=count, task_type="CAUSAL_LM"))
    try:
        initialize_kv_prefix_from_past_key_values(trained_model.model, past_key_values=first.past_key_values)
    except ValueError as error:
        raise BadConfig(f"{_FIELD}: {type(run.model).__name__} has keys and values that a prefix does not fit: {error}"
                        ) from error
    return trained_model


def _bottleneck(run: TrainingRun, settings: AdditiveSpec) -> TrainedModel:
    """Small networks after attention and feed-forward. At first they do not change the hidden states."""
    assert settings.bottleneck_size is not None
    add_bottlenecks(run.model, settings.bottleneck_size)
    return Bottlenecks(run.model, settings.bottleneck_size)


def _attached(run: TrainingRun, config: PeftConfig) -> PeftAdapter:
    try:
        model: PeftModel = get_peft_model(run.model, config)
    except (ValueError, TypeError, AttributeError) as error:
        raise BadConfig(f"{_FIELD}: PEFT cannot attach {config.peft_type} to {type(run.model).__name__}: {error}"
                        ) from error
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return PeftAdapter(model)
