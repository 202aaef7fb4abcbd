"""DoRA and QDoRA."""

from finetune_trainer.methods.dora import train
from finetune_trainer.methods.lora import report
from finetune_trainer.methods.trainer_method import TrainerMethod

METHOD = TrainerMethod(train.train, report.adapter_lines)
