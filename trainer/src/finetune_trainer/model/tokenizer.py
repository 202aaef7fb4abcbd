"""The model's tokenizer, and whether what it writes is among the model's embeddings."""

from __future__ import annotations

import json
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from finetune_trainer.errors import BadConfig
from finetune_trainer.model.files.find import ModelFiles
from finetune_trainer.model.files.json_files import require_objects
from finetune_trainer.model.reading import reading

_FILES = ("tokenizer.json", "vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model")
_NEEDED = {"tokenizer.model": "sentencepiece", "spiece.model": "sentencepiece"}
"""Files that are read only with a package that the trainer may not have."""

_OBJECTS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.json")

_MADE_OF = ("vocab", "merges")
"""What a tokenizer may be given as data; as text it is the path of a file."""


def load_tokenizer(files: ModelFiles) -> PreTrainedTokenizerBase:
    """The model's tokenizer, with a pad token: its own where the model has an embedding for it, or the end token.

    Raises:
        BadConfig: the files hold no tokenizer that can be read.
    """
    _check_files(files)
    require_objects(files.folder, _OBJECTS, files.name)
    _refuse_paths(files)
    with reading(f"the tokenizer of {files.name}"):
        tokenizer = AutoTokenizer.from_pretrained(files.folder, trust_remote_code=False)
        pad = tokenizer.pad_token_id
        tokenizer("?")  # What is wrong with its settings is often found by its first use.
    size = _embeddings(files.folder)
    if pad is None or (size is not None and pad >= size):
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _check_files(files: ModelFiles) -> None:
    there = {path.name for path in files.folder.iterdir()}
    if not there.intersection(_FILES):
        raise BadConfig(f"spec.model.source: {files.name} has no tokenizer (tokenizer.json): put the files of its "
                        "tokenizer beside its weights")
    for name, package in _NEEDED.items():
        if name in there and "tokenizer.json" not in there and find_spec(package) is None:
            raise BadConfig(f"spec.model.source: the tokenizer of {files.name} is {name}, which takes the package "
                            f"{package}, which is not installed here. Where it is, write tokenizer.json once: "
                            "AutoTokenizer.from_pretrained(folder).save_pretrained(folder)")


def _refuse_paths(files: ModelFiles) -> None:
    """Refuse a tokenizer whose configuration names files: transformers would read them from wherever they are, and what
    is in them would be published with `merged`.
    """
    try:
        content = json.loads((files.folder / "tokenizer_config.json").read_text("utf-8"))
    except (ValueError, RecursionError, OSError):
        return  # There is none, or transformers says what is wrong with it.
    for key in _MADE_OF:
        if isinstance(content, dict) and isinstance(content.get(key), str):
            raise BadConfig(f"spec.model.source: {key} in the tokenizer_config.json of {files.name} is a path "
                            f"({content[key][:100]!r}), which would be read from this machine: leave it out, and put "
                            "the file itself beside it")


def _embeddings(folder: Path) -> int | None:
    """How many tokens the model has embeddings for, by its configuration; None where that doesn't tell."""
    try:
        content = json.loads((folder / "config.json").read_text("utf-8"))
        size = content.get("vocab_size", content.get("text_config", {}).get("vocab_size"))
    except (ValueError, AttributeError, RecursionError, OSError):
        return None
    return size if isinstance(size, int) else None


def check_tokens(tokenizer: PreTrainedTokenizerBase, rows: Iterable[tuple[int, ...]], embeddings: int, source: str
                 ) -> None:
    """Refuse tokens that the model has no embedding for.

    Args:
        tokenizer: the model's.
        rows: token ids of everything that it will read.
        embeddings: how many tokens the model has embeddings for.
        source: where the model comes from, for people.

    Raises:
        BadConfig: with the first such token.
    """
    highest = max((token for row in rows for token in row), default=0)
    if highest >= embeddings:
        text = tokenizer.convert_ids_to_tokens(highest)
        raise BadConfig(f"spec.model.source: the tokenizer of {source} writes {text!r} as token {highest}, and the "
                        f"model has embeddings for tokens 0 to {embeddings - 1} alone: take the tokenizer that belongs "
                        "to the model, or enlarge its embeddings (resize_token_embeddings) and train them first")
