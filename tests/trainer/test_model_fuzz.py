"""Damaged model folders through preflight: each ends in a sentence, and never in something that nobody foresaw.

`FINETUNE_FUZZ=2000 python -m pytest tests/trainer/test_model_fuzz.py` tries as many.
"""

from __future__ import annotations

import json
import os
import random
import shutil

from finetune_api.exit_codes import ExitCode
from finetune_trainer.run.preflight import preflight

from tests.trainer.runs import workshop
from tests.trainer.test_preflight import config

ROUNDS = int(os.environ.get("FINETUNE_FUZZ", "12"))
VALUES = (None, 0, -1, 1, 2, 3, 7, 10**6, 2**70, 1.5, "", "x", "64", True, [], [1], {}, {"type": "x"}, [[]],
          float("nan"))


def damage(folder, chance):
    """Change one thing in a model's folder, and say what."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    path = chance.choice(files)
    kind = chance.choice(("remove", "rename", "cut", "bytes", "empty", "folder", "value", "value", "value", "value"))
    content = path.read_bytes()
    if kind == "remove":
        path.unlink()
    elif kind == "rename":
        path.rename(folder / f"other-{path.name}")
    elif kind == "cut":
        path.write_bytes(content[:chance.randrange(len(content) or 1)])
    elif kind == "bytes":
        changed = bytearray(content)
        for _ in range(8):
            changed[chance.randrange(min(len(changed), 2000))] = chance.randrange(256)
        path.write_bytes(bytes(changed))
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "folder":
        path.unlink()
        path.mkdir()
    else:
        path, kind = changed_value(folder, chance)
    return f"{kind} {path.name}"


def changed_value(folder, chance):
    """Give a setting in one of the folder's JSON files a value that nobody expects there."""
    path = folder / chance.choice(("config.json", "config.json", "tokenizer_config.json", "generation_config.json"))
    try:
        content = json.loads(path.read_text())
        key, value = chance.choice(sorted(content)), chance.choice(VALUES)
        path.write_text(json.dumps({**content, key: value}))
    except (ValueError, OSError, TypeError, IndexError):
        return path, "value in none"
    return path, f"{key}={value}"


def test_whatever_becomes_of_a_models_folder_ends_in_a_sentence(tmp_path):
    folder = workshop(tmp_path / "whole", rows=8)
    job = config(folder, model={"source": f"file://{tmp_path}/damaged"}, dataset={"evaluationFraction": 0.5})
    unforeseen = []
    for number in range(ROUNDS):
        chance = random.Random(number)
        shutil.rmtree(tmp_path / "damaged", ignore_errors=True)
        shutil.copytree(folder / "model", tmp_path / "damaged")
        done = [damage(tmp_path / "damaged", chance) for _ in range(chance.choice((1, 1, 2)))]
        checked = preflight(job, lambda text: None)
        if checked.code == ExitCode.INTERNAL or "an unexpected error" in checked.result.message:
            unforeseen.append(f"{number}: {done}: {checked.result.message}")
    assert not unforeseen, "\n".join(unforeseen)
