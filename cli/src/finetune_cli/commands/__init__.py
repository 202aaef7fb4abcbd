"""The commands of `finetune`, one a file."""
