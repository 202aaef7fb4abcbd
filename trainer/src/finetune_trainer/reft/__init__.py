"""The parts of reinforced fine-tuning; `methods/reft.py` puts them in order."""
