"""Partial fine-tuning."""

from finetune_trainer.methods.partial import report, train
from finetune_trainer.methods.trainer_method import TrainerMethod

METHOD = TrainerMethod(train.train, report.report_lines)
