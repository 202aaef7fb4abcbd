"""Makes up arithmetic with chains of thought, and a tiny model that can do some of it, for the sample of ReFT.

A question has four operations on single digits, left to right, modulo 7. Its chain takes one, two, three or all four of
them a line, as chance wants: all of these are right, but only one operation a line is easy. A model that copies the mix
is right as often as its luck in choosing; one that is rewarded for right answers can learn to choose.

    python deploy/samples/arithmetic.py --out build/demo/arithmetic

writes train.jsonl, test.jsonl (no question of it is in train.jsonl) and `model`: a Llama of about 110,000 parameters
that was trained on train.jsonl from nothing, for a minute or so.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Row = dict[str, str]
MODULUS = 7
OPERATIONS = 4
TRIGGER = "#"
_ALPHABET = "0123456789+-*=#\n"
_APPLY = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}


def make_rows(count: int, seed: int, modulus: int = MODULUS, grains: Sequence[int] = (1, 2, 3, 4)) -> list[Row]:
    """Rows of `question`, `chain` and `answer`, no two with the same question.

    Args:
        count: how many.
        seed: the same seed gives the same rows.
        modulus: what is reckoned modulo, at most 10.
        grains: operations a line; each row's is drawn from these.
    """
    chance = random.Random(seed)
    rows: dict[str, Row] = {}
    while len(rows) < count:
        digits = [chance.randrange(modulus) for _ in range(OPERATIONS + 1)]
        signs = [chance.choice("+-*") for _ in range(OPERATIONS)]
        question = str(digits[0]) + "".join(f"{sign}{digit}" for sign, digit in zip(signs, digits[1:], strict=True))
        lines, value = chain(digits, signs, chance.choice(grains), modulus)
        rows.setdefault(question, {"question": question, "chain": "\n".join(lines), "answer": str(value)})
    return list(rows.values())


def chain(digits: Sequence[int], signs: Sequence[str], grain: int, modulus: int) -> tuple[list[str], int]:
    """A chain of thought with `grain` operations a line, and what comes out."""
    lines, value = [], digits[0]
    for start in range(0, len(signs), grain):
        line = str(value)
        for sign, digit in zip(signs[start:start + grain], digits[start + 1:start + grain + 1], strict=True):
            line += f"{sign}{digit}"
            value = _APPLY[sign](value, digit) % modulus
        lines.append(f"{line}={value}")
    return lines, value


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Rows as jsonl."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def make_tokenizer() -> Any:
    """A tokenizer whose tokens are the characters of questions and chains, an end and a pad."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: index for index, token in enumerate(["<end>", "<pad>", *_ALPHABET])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<pad>")


def train_model(folder: Path, rows: Sequence[Row], steps: int, seed: int, batch: int = 64, rate: float = 3e-3
                ) -> None:
    """A tiny Llama, trained on rows as a job would (question, line break, chain, trigger, answer), in safetensors.

    Args:
        folder: where to save it with its tokenizer.
        rows: what it learns.
        steps: optimizer steps of `batch` rows, the learning rate falling from `rate` to zero by a cosine.
        seed: of its first weights and the order of rows.
        batch: rows a step.
        rate: learning rate.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = make_tokenizer()
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=192, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=128, initializer_range=0.06, eos_token_id=0, pad_token_id=1, bos_token_id=None,
        tie_word_embeddings=False))
    texts = [(tokenizer(f"{row['question']}\n")["input_ids"],
              [*tokenizer(f"{row['chain']}\n{TRIGGER}{row['answer']}")["input_ids"], 0]) for row in rows]
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    chance = random.Random(seed)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * step / steps)) * min(1.0, (step + 1) / 20)
        chosen = [texts[chance.randrange(len(texts))] for _ in range(batch)]
        width = max(len(prompt) + len(answer) for prompt, answer in chosen)
        ids = torch.tensor([[*p, *a, *[1] * (width - len(p) - len(a))] for p, a in chosen])
        labels = torch.tensor([[*[-100] * len(p), *a, *[-100] * (width - len(p) - len(a))] for p, a in chosen])
        loss = model(input_ids=ids, labels=labels, use_cache=False).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main() -> None:
    """Write both files and the model."""
    parser = argparse.ArgumentParser(description="Makes up arithmetic with chains of thought, and a tiny model.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--train-count", type=int, default=3000)
    parser.add_argument("--test-count", type=int, default=500)
    parser.add_argument("--steps", type=int, default=2000, help="optimizer steps of the model (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rows = make_rows(arguments.train_count + arguments.test_count, arguments.seed)
    write_rows(arguments.out / "train.jsonl", rows[: arguments.train_count])
    write_rows(arguments.out / "test.jsonl", rows[arguments.train_count:])
    train_model(arguments.out / "model", rows[: arguments.train_count], arguments.steps, arguments.seed)


if __name__ == "__main__":
    main()
