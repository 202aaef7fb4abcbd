"""How long, how fast and in what batches the model is trained."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from finetune_api.values.api_model import ApiModel


class Scheduler(StrEnum):
    """How the learning rate changes after the warm-up."""

    COSINE = "cosine"
    LINEAR = "linear"
    CONSTANT = "constant"


class Precision(StrEnum):
    """The type that the model computes in."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


class Toggle(StrEnum):
    """A setting that the trainer can decide."""

    AUTO = "auto"
    ENABLED = "enabled"
    DISABLED = "disabled"


class Kernels(StrEnum):
    """What computes norms, rotary positions and SwiGLU on a GPU."""

    AUTO = "auto"
    TORCH = "torch"


class LongRows(StrEnum):
    """What the trainer does with a row that is longer than `maxLength`. It never cuts an answer."""

    CUT_PROMPT = "cutPrompt"
    DROP = "drop"
    REFUSE = "refuse"


class TrainingSpec(ApiModel):
    """The training run. Every field has a default."""

    epochs: Annotated[float, Field(gt=0, le=1000)] | None = None
    """Number of passes over the data. Default: 3, if `maxSteps` is not set. Write this or `maxSteps`, not both."""

    max_steps: Annotated[int, Field(ge=1)] | None = None
    """Number of optimizer steps. Write this or `epochs`, not both."""

    learning_rate: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Peak learning rate. Default: 2e-4 for LoRA and DoRA, 2e-5 for Full, 5e-5 for layers and 5e-4 for parameters of
    Partial, 1e-2 for IA3, 3e-2 for PromptTuning and PrefixTuning, 1e-3 for Bottleneck."""

    batch_size: Annotated[int, Field(ge=1, le=65536)] = 16
    """Rows per optimizer step, over all GPUs. It must be a multiple of the number of GPUs."""

    micro_batch_size: Annotated[int, Field(ge=1)] | None = None
    """Rows per forward pass on one GPU, at most `batchSize`. Gradient accumulation makes a step of `batchSize` rows. It
    changes speed and memory, not the result. Default: the trainer chooses it, and halves it if memory runs out."""

    max_length: Annotated[int, Field(ge=8, le=1_048_576)] = 1024
    """Longest row in tokens: question and answer together."""

    long_rows: LongRows = LongRows.CUT_PROMPT
    """What to do with rows longer than `maxLength`: `cutPrompt` removes the middle of the question, `drop` skips the
    row, `refuse` ends the job. The report counts them."""

    packing: bool = True
    """Put several rows of a step into one line instead of padding each. Attention never crosses rows, so the gradient
    is the same. Before training, the trainer finds models that cannot separate the rows (their layers carry a state or
    ignore positions) and gives them one row per line. Prompt and prefix tuning never pack, since every row needs its
    own virtual tokens."""

    scheduler: Scheduler = Scheduler.COSINE
    """Learning rate after the warm-up: `cosine` and `linear` fall to zero, `constant` stays."""

    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.03
    """Share of the steps in which the learning rate rises to `learningRate`. No step has a rate of zero, and at least
    one step has the full rate."""

    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Decoupled weight decay of AdamW."""

    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """The trainer clips gradients to this norm."""

    precision: Precision = Precision.AUTO
    """Type of the computation. `auto` is bfloat16 on GPUs that support it, else float32. Trained parameters are always
    float32."""

    gradient_checkpointing: Toggle = Toggle.AUTO
    """Compute activations again in the backward pass instead of storing them: less memory, about a third more time.
    `enabled` is for all layers. `auto` is for as many layers on a GPU as the memory estimate requires, for all if no
    estimate is possible, and for none with prefix tuning, which would lose its prefix."""

    kernels: Kernels | None = None
    """What computes RMSNorm, rotary positions and SwiGLU on a GPU. Default: `auto`. It takes Liger's Triton kernels in
    bfloat16 for Gemma (1 to 3), Llama, Mistral, Phi 3, Qwen 2 and Qwen 3 (with DoRA only for RMSNorm), if they agree
    with torch on the model's own modules; otherwise a note says why not. `torch` takes transformers' own code, as a
    CPU always does."""

    seed: Annotated[int, Field(ge=0, le=4_294_967_295)] = 42
    """Seed of the adapter's initial weights, the order of the rows, dropout, and the choice of held-out rows."""

    checkpoint_every: Annotated[int, Field(ge=1)] = 50
    """Number of optimizer steps between checkpoints. The trainer uploads them in the background."""
