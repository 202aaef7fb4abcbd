"""Full fine-tuning."""

from finetune_trainer.methods.full import train
from finetune_trainer.methods.trainer_method import TrainerMethod

METHOD = TrainerMethod(train.train)
