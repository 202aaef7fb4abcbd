"""A model before its weights are read: its configuration, its class, and a check that its files fit both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from finetune_api.spec.method import Quantization
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.auto_factory import _get_model_class
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING

from finetune_trainer.errors import BadConfig
from finetune_trainer.model.files.json_files import read_object, require_objects
from finetune_trainer.model.files.load_report import refuse_made_up
from finetune_trainer.model.files.weights import Tensor
from finetune_trainer.model.loading.stored_quantization import as_if_whole, refuse_whole_numbers, stored_quantization
from finetune_trainer.model.reading import reading

_MOST_LAYERS = 1000
_TAKE_ANOTHER = "take a text decoder, such as one of Llama, Mistral, Qwen, Gemma or Phi"
_TYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
          "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "BOOL": torch.bool}


@dataclass(frozen=True)
class Base:
    """A base model without its weights.

    Attributes:
        config: the configuration of the class that is loaded. For a multimodal model it is that of the text decoder,
            where transformers has a class for it.
        model_class: the class that is loaded.
        multimodal: whether the class is only a part of the model in the files.
        source: the model's location, for messages.
        content: the content of config.json.
    """

    config: PreTrainedConfig
    model_class: type[PreTrainedModel]
    multimodal: bool
    source: str
    content: Mapping[str, Any]

    def empty(self) -> PreTrainedModel:
        """The model without storage for its weights.

        Raises:
            BadConfig: the configuration is not valid for the class.
        """
        with reading(f"a model by the config.json of {self.source}"), torch.device("meta"):
            return self.model_class(self.config)

    def check(self, tensors: Mapping[str, Tensor], quantization: Quantization) -> None:
        """Check that the weights in the files are those of the model, by name and shape.

        Raises:
            BadConfig: weights are missing, unexpected or of another shape, or their storage can't be trained on.
        """
        stored = stored_quantization(self.config, quantization, self.source)
        if stored is not None:
            shapes = {name: tuple(tensor.shape) for name, tensor in self.empty().state_dict().items()}
            tensors = as_if_whole(tensors, shapes, stored, self.source)
        else:
            refuse_whole_numbers(tensors, self.source)
        with reading(f"the weights of {self.source}"):
            plain = type(self.config).from_dict({key: value for key, value in self.config.to_dict().items()
                                                 if key not in ("quantization_config", "compression_config")})
            weights = {name: torch.empty(tensor.shape, dtype=_TYPES.get(tensor.type, torch.uint8), device="meta")
                       for name, tensor in tensors.items()}
            _, report = self.model_class.from_pretrained(
                None, config=plain, state_dict=weights, device_map={"": "meta"}, dtype=torch.float32,
                output_loading_info=True, ignore_mismatched_sizes=True)
        self.refuse_made_up(report)

    def refuse_made_up(self, report: Mapping[str, Any]) -> None:
        """Refuse a loaded model with random weights; errors as in `load_report.refuse_made_up`."""
        refuse_made_up(report, self.config, self.model_class.__name__, self.multimodal, self.source)


def open_base(folder: Path, source: str) -> Base:
    """Read a model's configuration.

    Raises:
        BadConfig: the configuration can't be read, or is not that of a causal language model.
        MissingInput: there is no config.json.
    """
    content = read_object(folder, "config.json", source)
    require_objects(folder, ("generation_config.json",), source)
    if content.get("auto_map") and content.get("model_type") not in CONFIG_MAPPING:
        raise BadConfig(f"spec.model.source: {source} needs its own code (model_type {content.get('model_type')}), and "
                        f"the trainer runs no code from a model; {_TAKE_ANOTHER}")
    with reading(f"the config.json of {source}"):
        whole = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        depth = whole.get_text_config().num_hidden_layers
    architectures = content.get("architectures")
    named = architectures[0] if isinstance(architectures, list) and architectures else whole.model_type
    if not isinstance(depth, int) or not 0 < depth <= _MOST_LAYERS:
        raise BadConfig(f"spec.model.source: the config.json of {source} has {depth} layers; it must have 1 to "
                        f"{_MOST_LAYERS}. Take the config.json that belongs to the weights")
    if type(whole) not in AutoModelForCausalLM._model_mapping:
        raise BadConfig(f"spec.model.source: {source} is a {named}, not a causal language model; {_TAKE_ANOTHER}")
    model_class = _get_model_class(whole, AutoModelForCausalLM._model_mapping)
    config = whole
    if model_class.config_class is whole.sub_configs.get("text_config", whole):
        config = whole.get_text_config()
        if settings := getattr(whole, "quantization_config", None):
            config.quantization_config = settings
    if getattr(config, "is_encoder_decoder", False) or (
            type(config) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False)):
        raise BadConfig(f"spec.model.source: {source} is a {named}: an encoder, which also reads the tokens after "
                        f"a token, not a causal language model; {_TAKE_ANOTHER}")
    return Base(config, model_class, config is not whole, source, content)
