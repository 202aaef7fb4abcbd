"""Running the code of a published model card as it stands."""

from __future__ import annotations

import os
from pathlib import Path

from finetune_trainer.data.chat.chat_format import ChatFormat
from finetune_trainer.evaluation.generate import GenerationSettings, generate


def run_card(card: Path, scratch: Path) -> dict:
    """The names that the card's code leaves behind, run in a folder of its own."""
    code = card.read_text().partition("```python\n")[2].partition("```")[0]
    names: dict = {}
    here = Path.cwd()
    scratch.mkdir(parents=True, exist_ok=True)
    os.chdir(scratch)
    try:
        exec(code, names)
    finally:
        os.chdir(here)
    return names


def assert_answered_as_scored(names: dict, system: str | None = None, max_new_tokens: int = 8) -> None:
    """The card's answer is what an evaluation of the model that it loaded would have scored."""
    tokenizer, model = names["tokenizer"], names["model"]
    chat = ChatFormat(tokenizer, system)
    prompt = tuple(chat.prompt_ids([{"role": "user", "content": names["question"]}]))
    assert tuple(names["inputs"]["input_ids"][0].tolist()) == prompt
    settings = GenerationSettings(tuple(sorted({chat.end_of_turn, tokenizer.eos_token_id})), pad_id=0,
                                  max_new_tokens=max_new_tokens, batch_size=1)
    done = generate(model, [prompt], settings, lambda: None)
    assert names["answer"].strip() == chat.text(done.answers[0]).strip()
