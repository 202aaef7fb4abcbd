"""How long, how fast and in what portions the model learns."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from finetune_api.values.api_model import ApiModel


class Scheduler(StrEnum):
    """How the learning rate moves after the warm-up."""

    COSINE = "cosine"
    LINEAR = "linear"
    CONSTANT = "constant"


class Precision(StrEnum):
    """The type that the model computes in."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


class Toggle(StrEnum):
    """A switch that the trainer may decide."""

    AUTO = "auto"
    ENABLED = "enabled"
    DISABLED = "disabled"


class LongRows(StrEnum):
    """What happens to a row that is longer than `maxLength`. Its answer is never cut."""

    CUT_PROMPT = "cutPrompt"
    DROP = "drop"
    REFUSE = "refuse"


class TrainingSpec(ApiModel):
    """The training run. Everything has a default that works."""

    epochs: Annotated[float, Field(gt=0, le=1000)] | None = None
    """Passes over the data; or use `maxSteps`. With neither, 3."""

    max_steps: Annotated[int, Field(ge=1)] | None = None
    """Optimizer steps; or use `epochs`."""

    learning_rate: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Peak learning rate. Left out: 2e-4 for LoRA and DoRA, 2e-5 for Full, 5e-5 for layers and 5e-4 for parameters of
    Partial, 1e-2 for IA3, 3e-2 for PromptTuning and PrefixTuning, 1e-3 for Bottleneck."""

    batch_size: Annotated[int, Field(ge=1, le=65536)] = 16
    """Rows per optimizer step, over all GPUs. Neither memory nor packing changes it."""

    micro_batch_size: Annotated[int, Field(ge=1)] | None = None
    """Rows per forward pass on one GPU; gradients are accumulated up to `batchSize`. Left out: chosen, and halved when
    memory runs out. It changes speed and memory, not the result."""

    max_length: Annotated[int, Field(ge=8, le=1_048_576)] = 1024
    """Longest row in tokens, question and answer together."""

    long_rows: LongRows = LongRows.CUT_PROMPT
    """Rows longer than `maxLength`: `cutPrompt` removes the middle of the question, `drop` leaves the row
    out, `refuse` ends the job. Each is counted in the report."""

    packing: bool = True
    """Lay several rows of a step side by side instead of padding them. Rows never see each other, and the gradient is
    the same: a model that can't keep them apart (its layers carry a state, or take no positions) is found before
    training and gets one row a line. Prompt and prefix tuning never do, since every row needs virtual tokens of its
    own."""

    scheduler: Scheduler = Scheduler.COSINE
    """Learning rate after the warm-up: falling to zero by `cosine` or `linear`, or `constant`."""

    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.03
    """Share of the steps in which the learning rate rises to `learningRate`, whatever the scheduler. No step has a rate
    of zero, and one step at least has the whole rate, however few there are."""

    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Decoupled weight decay of AdamW."""

    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Gradients are clipped to this norm."""

    precision: Precision = Precision.AUTO
    """`auto` is float32 on CPU and bfloat16 on GPUs that have it. What is trained is float32 in any case."""

    gradient_checkpointing: Toggle = Toggle.AUTO
    """Recompute activations instead of keeping them: less memory, about a third more time. `auto` does so on a GPU
    where the memory estimate says that it must be, or can't tell, but never for prefix tuning, whose prefix would be
    lost."""

    seed: Annotated[int, Field(ge=0, le=4_294_967_295)] = 42
    """Seed of the adapter's first weights, the order of the rows, dropout, and the choice of held-out rows."""

    checkpoint_every: Annotated[int, Field(ge=1)] = 50
    """Optimizer steps between checkpoints, which are uploaded in the background."""
