"""From a question and an answer to token ids, by the model's chat template."""
