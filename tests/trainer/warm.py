"""What the processes of tests are forked from: all that a run imports, most of the time that a tiny one takes.

Frozen, because garbage collection looks at every object: each fork would get copies of hundreds of megabytes.
"""

import gc

import finetune_trainer.run.attempt.attempt
import finetune_trainer.run.local

__all__ = ["finetune_trainer"]

gc.collect()
gc.freeze()
