"""The name under which model cards of the first release import `load_bottleneck`; it is `finetune_trainer.load`'s."""

from finetune_trainer.load import load_bottleneck

__all__ = ["load_bottleneck"]
