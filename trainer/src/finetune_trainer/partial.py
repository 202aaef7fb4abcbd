"""The name under which model cards of the first release import `load_partial`; it is `finetune_trainer.load`'s."""

from finetune_trainer.load import load_partial

__all__ = ["load_partial"]
