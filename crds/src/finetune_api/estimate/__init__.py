"""What a job needs, from its model's `config.json` alone: memory, time and money. Pure; no torch, no weights.

    architecture   config.json -> the sizes of the model's layers
    trained        which of the model's parameters a method trains
    activations    what a forward pass stores
    optimizer      which AdamW trains, and what its state needs
    memory         sizes, method, forward pass -> bytes by term
    plan           which micro-batch size and checkpointing fit and are fastest
    advice         what to change if nothing fits
    host           what publishing needs of the host's memory
    speed          tokens -> hours -> money
    job            all of it for one job
    alternatives   the other methods, and which alternative is the cheapest
"""

from finetune_api.architecture import Architecture, UnknownArchitecture, read_architecture
from finetune_api.estimate.activations import Machine
from finetune_api.estimate.advice import advise_change
from finetune_api.estimate.alternatives import alternative_methods, rank_by_cost
from finetune_api.estimate.host import (
    PROCESS,
    PROCESS_ON_CPU,
    PROGRAM,
    mapped_weights_bytes,
    merging_bytes,
    programs_at_once,
)
from finetune_api.estimate.job import Estimate, EstimateTarget, TrainingRows, estimate_job, trained_tokens
from finetune_api.estimate.memory import (
    ForwardPass,
    MemoryEstimate,
    checkpoint_bytes,
    estimate_memory,
    machine_for,
)
from finetune_api.estimate.optimizer import MANY_PARAMETERS, Optimizer, choose_optimizer
from finetune_api.estimate.plan import (
    Accelerators,
    MemoryPlan,
    RowLengths,
    checkpointing_in_words,
    choose_plan,
    rows_of_full_pass,
)
from finetune_api.estimate.speed import (
    TrainingDuration,
    estimate_duration,
    left_out,
    operations_per_second,
    operations_per_token,
)
from finetune_api.estimate.trained import trained_by
from finetune_api.methods.trained_parameters import TrainedParameters

__all__ = [
    "MANY_PARAMETERS",
    "PROCESS",
    "PROCESS_ON_CPU",
    "PROGRAM",
    "Accelerators",
    "Architecture",
    "Estimate",
    "EstimateTarget",
    "ForwardPass",
    "Machine",
    "MemoryEstimate",
    "MemoryPlan",
    "Optimizer",
    "RowLengths",
    "TrainedParameters",
    "TrainingDuration",
    "TrainingRows",
    "UnknownArchitecture",
    "advise_change",
    "alternative_methods",
    "checkpoint_bytes",
    "checkpointing_in_words",
    "choose_optimizer",
    "choose_plan",
    "estimate_duration",
    "estimate_job",
    "estimate_memory",
    "left_out",
    "machine_for",
    "mapped_weights_bytes",
    "merging_bytes",
    "operations_per_second",
    "operations_per_token",
    "programs_at_once",
    "rank_by_cost",
    "read_architecture",
    "rows_of_full_pass",
    "trained_by",
    "trained_tokens",
]
