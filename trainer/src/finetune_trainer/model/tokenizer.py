"""Loading the model's tokenizer, and checking that the model has an embedding for each token."""

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
"""Files that need a package that may not be installed."""

_OBJECTS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.json")

_MADE_OF = ("vocab", "merges")
"""Settings of a tokenizer that are data, or as a text the path of a file."""


def load_tokenizer(files: ModelFiles) -> PreTrainedTokenizerBase:
    """The model's tokenizer with a pad token: its own, or the end token where the model has no embedding for its own.

    Raises:
        BadConfig: there is no tokenizer, or it can't be read.
    """
    _check_files(files)
    require_objects(files.folder, _OBJECTS, files.name)
    _refuse_paths(files)
    with reading(f"the tokenizer of {files.name}"):
        tokenizer = AutoTokenizer.from_pretrained(files.folder, trust_remote_code=False)
        pad = tokenizer.pad_token_id
        tokenizer("?")  # Wrong settings often show only at the first use.
    size = _embeddings(files.folder)
    if pad is None or (size is not None and pad >= size):
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _check_files(files: ModelFiles) -> None:
    there = {path.name for path in files.folder.iterdir()}
    if not there.intersection(_FILES):
        raise BadConfig(f"spec.model.source: {files.name} has no tokenizer (tokenizer.json); put the files of its "
                        "tokenizer beside its weights")
    for name, package in _NEEDED.items():
        if name in there and "tokenizer.json" not in there and find_spec(package) is None:
            raise BadConfig(f"spec.model.source: the tokenizer of {files.name} is {name}, which needs the "
                            f"package {package}; it is not installed here. Write tokenizer.json where it is installed: "
                            "AutoTokenizer.from_pretrained(folder).save_pretrained(folder)")


def _refuse_paths(files: ModelFiles) -> None:
    """Refuse a tokenizer whose configuration names files: transformers would read them from anywhere, and `merged`
    would publish their content.
    """
    try:
        content = json.loads((files.folder / "tokenizer_config.json").read_text("utf-8"))
    except (ValueError, RecursionError, OSError):
        return  # There is no such file, or transformers reports its error.
    for key in _MADE_OF:
        if isinstance(content, dict) and isinstance(content.get(key), str):
            raise BadConfig(f"spec.model.source: {key} in the tokenizer_config.json of {files.name} is a path "
                            f"({content[key][:100]!r}), which would be read from this machine; remove it, and put "
                            "the file itself into the model's folder")


def _embeddings(folder: Path) -> int | None:
    """The number of tokens that the model has embeddings for, by its configuration; None where it is not there."""
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
        tokenizer: the model's tokenizer.
        rows: all token ids that the model will read.
        embeddings: the number of tokens that the model has embeddings for.
        source: the model's location, for messages.

    Raises:
        BadConfig: there is such a token; the message names the highest.
    """
    highest = max((token for row in rows for token in row), default=0)
    if highest >= embeddings:
        text = tokenizer.convert_ids_to_tokens(highest)
        raise BadConfig(f"spec.model.source: the tokenizer of {source} writes {text!r} as token {highest}, and the "
                        f"model has embeddings for tokens 0 to {embeddings - 1}; take the tokenizer that belongs "
                        "to the model, or enlarge its embeddings (resize_token_embeddings) and train them first")
