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
    if not isinstance(content, dict):
        raise BadConfig(f"spec.model.source: the {name} of {source} holds a {type(content).__name__}; it must be a "
                        "JSON object, as save_pretrained writes it")
    return content


def require_objects(folder: Path, names: tuple[str, ...], source: str) -> None:
    """Refuse a model in which one of these files is there and holds no object. transformers' error has no file name.

    Raises:
        BadConfig: with the file's name.
    """
    for name in names:
        if (folder / name).is_file():
            read_object(folder, name, source)
