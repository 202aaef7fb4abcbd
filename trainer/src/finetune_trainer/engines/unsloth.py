"""The engine Unsloth: it loads the model and attaches the adapter. All other code is the same for both engines.

Only the image of trainer/Dockerfile.unsloth has Unsloth: parts of it are LGPL and AGPL. When Unsloth is imported, it
changes transformers, peft and trl, so it must be imported before them: the trainer calls `prepare` first.
Nothing here was tested on a GPU (docs/how-to/unsloth.md). Without one, Unsloth trains with transformers' own models:
that is no use to a job, so `prepare` refuses it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from finetune_api.spec.job import FineTuneJobSpec
from finetune_api.spec.method import LowRankSpec, Quantization
from finetune_api.spec.training import Toggle

from finetune_trainer.errors import BadConfig, OutOfMemory, first_line

if TYPE_CHECKING:
    from finetune_trainer.hardware.device import Device
    from finetune_trainer.model.files.find import ModelFiles


def prepare() -> None:
    """Import Unsloth, before transformers, peft and trl.

    Raises:
        BadConfig: there is no NVIDIA GPU, or Unsloth is not installed.
    """
    import torch

    if not torch.cuda.is_available():
        raise BadConfig("spec.engine: unsloth needs an NVIDIA GPU, and this machine has none. Write engine: native")
    # Else each load downloads a file that Unsloth counts, and whose name says how much memory the GPU has.
    os.environ["UNSLOTH_DISABLE_STATISTICS"] = "1"
    try:
        import unsloth  # type: ignore[import-not-found] # noqa: F401
    except ImportError as error:
        raise BadConfig("spec.engine: Unsloth isn't installed here; use the image of trainer/Dockerfile.unsloth (the "
                        "operator's unslothImage), or write engine: native") from error


def load_model(files: ModelFiles, spec: FineTuneJobSpec, device: Device) -> Any:
    """The frozen base model on the GPU, with Unsloth's kernels.

    Raises:
        BadConfig: Unsloth does not support its architecture.
        OutOfMemory: the model does not fit on the GPU.
    """
    import torch
    from unsloth import FastLanguageModel

    from finetune_trainer.model.loading.load import check_base

    check_base(files, spec.method.quantization)
    try:
        model, _ = FastLanguageModel.from_pretrained(
            model_name=str(files.folder),
            max_seq_length=spec.training.max_length,
            dtype=device.dtype,
            load_in_4bit=spec.method.quantization is Quantization.NF4,
            device_map={"": device.torch_device},
            trust_remote_code=False,
            fix_tokenizer=False,
            # Use this folder: otherwise Unsloth loads its own quantized copy from the hub, by the name of the model.
            use_exact_model_name=True,
            use_gradient_checkpointing=_checkpointing(spec),
            random_state=spec.training.seed,
        )
    except torch.OutOfMemoryError as error:
        raise OutOfMemory("the base model does not fit on the accelerator: write spec.method.quantization: nf4, or "
                          "choose an accelerator with more memory") from error
    except (ValueError, OSError, KeyError, NotImplementedError, RuntimeError) as error:
        raise BadConfig(f"spec.model.source: Unsloth cannot load the model: {first_line(error)}. Try engine: native"
                        ) from error
    model.requires_grad_(False)
    model.config.use_cache = False
    return model


def attach(model: Any, spec: FineTuneJobSpec, settings: LowRankSpec, targets: list[str]) -> Any:
    """The model with a new adapter in PEFT's format. The weights of the adapter depend only on the seed."""
    from unsloth import FastLanguageModel

    return FastLanguageModel.get_peft_model(
        model,
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        use_rslora=settings.rslora,
        target_modules=targets,
        bias="none",
        use_gradient_checkpointing=_checkpointing(spec),
        random_state=spec.training.seed,
        max_seq_length=spec.training.max_length,
    )


def _checkpointing(spec: FineTuneJobSpec) -> bool:
    return spec.training.gradient_checkpointing is not Toggle.DISABLED
