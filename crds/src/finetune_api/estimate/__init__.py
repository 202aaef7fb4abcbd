"""What a job needs, from its model's `config.json` alone: memory, time and money. Pure; no torch, no weights.

    architecture   config.json -> the sizes of the model's layers
    memory         sizes, method, micro-batch -> bytes by term
    fit            which micro-batch and checkpointing to take; what to change where nothing fits
    host           what publishing takes of the host's memory
    speed          tokens -> hours -> money
    job            all of it for one job
"""

from finetune_api.estimate.architecture import Architecture, UnknownArchitecture, read_architecture
from finetune_api.estimate.fit import Plan, advice, choose
from finetune_api.estimate.host import PROCESS, PROGRAM, merging_bytes, programs_at_once
from finetune_api.estimate.job import Estimate, On, estimate_job
from finetune_api.estimate.memory import Machine, Memory, Portion, checkpoint_bytes, estimate_memory, machine_for
from finetune_api.estimate.speed import Duration, estimate_duration

__all__ = [
    "PROCESS",
    "PROGRAM",
    "Architecture",
    "Duration",
    "Estimate",
    "Machine",
    "Memory",
    "On",
    "Plan",
    "Portion",
    "UnknownArchitecture",
    "advice",
    "checkpoint_bytes",
    "choose",
    "estimate_duration",
    "estimate_job",
    "estimate_memory",
    "machine_for",
    "merging_bytes",
    "programs_at_once",
    "read_architecture",
]
