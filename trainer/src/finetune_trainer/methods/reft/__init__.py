"""ReFT: reinforced fine-tuning."""
