"""The JSON files of a model, which others wrote: each must hold an object."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from finetune_trainer.errors import BadConfig
from finetune_trainer.model.reading import reading


def read_object(folder: Path, name: str, source: str) -> dict[str, Any]:
    """The object in a JSON file of a model.

    Args:
        folder: holds the file.
        name: the file's name, such as `config.json`.
        source: the model's location, for messages.

    Raises:
        BadConfig: the file is not JSON, or holds no object.
        MissingInput: it is not there.
    """
    with reading(f"the {name} of {source}"):
        content = json.loads((folder / name).read_text("utf-8"))
    return _as_object(content, name, source)


def _as_object(content: Any, name: str, source: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise BadConfig(f"spec.model.source: the {name} of {source} holds a {type(content).__name__}; it must be a "
                        "JSON object, as save_pretrained writes it")
    return content


def require_objects(folder: Path, names: tuple[str, ...], source: str) -> None:
    """Refuse a model in which one of these files is there and holds no object. transformers' error has no file name.

    A file that is not JSON is left to transformers: it ignores a generation_config.json that it cannot parse.

    Raises:
        BadConfig: with the file's name.
    """
    for name in names:
        with reading(f"the {name} of {source}"):
            try:
                content = json.loads((folder / name).read_text("utf-8"))
            except (OSError, ValueError):
                continue
        _as_object(content, name, source)
