"""Additive methods."""

from finetune_trainer.methods.additive import report, train
from finetune_trainer.methods.trainer_method import TrainerMethod

METHOD = TrainerMethod(train.train, report.report_lines)
