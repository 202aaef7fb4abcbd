"""LoRA and QLoRA."""

from finetune_trainer.methods.lora import report, train
from finetune_trainer.methods.trainer_method import TrainerMethod

METHOD = TrainerMethod(train.train, report.report_lines)
