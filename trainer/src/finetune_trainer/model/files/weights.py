"""Names, types and shapes of a model's weights, from the headers and the index of its safetensors files."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_trainer.errors import BadConfig, MissingInput

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"

Start = Callable[[str, int], tuple[bytes, int]]
"""Takes a file's name and a count; returns that many first bytes, and the size of the file in bytes."""

_LENGTH_BYTES = 8
_LONGEST_HEADER = 100_000_000
"""The limit of safetensors itself."""
_POINTER = b"version https://git-lfs"
_SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
_SHOWN = 5
_AGAIN = "download the model again"


@dataclass(frozen=True)
class Tensor:
    """The description of a weight in its file.

    Attributes:
        type: safetensors' name of the type, such as `BF16`.
        shape: the shape as stored.
    """

    type: str
    shape: tuple[int, ...]


def some(names: Iterable[str]) -> str:
    """Some of the names, and the number of the others."""
    ordered = sorted(names)
    left = len(ordered) - _SHOWN
    return ", ".join(ordered[:_SHOWN]) + (f" and {left} more" if left > 0 else "")


def start_of(folder: Path) -> Start:
    """Reads the first bytes of files in a local folder."""
    def start(name: str, count: int) -> tuple[bytes, int]:
        path = folder / name
        try:
            with path.open("rb") as file:
                return file.read(count), path.stat().st_size
        except OSError as error:
            raise MissingInput(f"spec.model.source: {name} can't be read: {error.strerror or error}") from error

    return start


def read_weights(folder: Path, names: Sequence[str], start: Start, source: str) -> dict[str, Tensor]:
    """The weights of a model by their names in its files.

    Args:
        folder: holds the index, where there is one.
        names: the names of all files of the model.
        start: reads the first bytes of one.
        source: the model's location, for messages.

    Raises:
        MissingInput: a file is missing, cut off, or no weights; or the index is another model's.
    """
    files, listed = _weight_files(folder, names, source)
    held: dict[str, Tensor] = {}
    for name in files:
        held |= _read_header(name, start, source)
    if listed is not None:
        _compare(listed, held, source)
    return held


def _weight_files(folder: Path, names: Sequence[str], source: str) -> tuple[list[str], set[str] | None]:
    """The files that transformers would load, and the names in the index, where there is one."""
    if WEIGHTS in names:
        return [WEIGHTS], None
    found = sorted(name for name in names if name.endswith(".safetensors"))
    if INDEX not in names:
        raise MissingInput(f"spec.model.source: {source} holds {some(found)}, but neither {WEIGHTS} nor {INDEX}, which "
                           f"lists the weights of each file; {_AGAIN}, with that file")
    try:
        index = json.loads((folder / INDEX).read_text("utf-8"))["weight_map"]
        listed = {str(name): str(file) for name, file in index.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError) as error:
        raise MissingInput(f"spec.model.source: {INDEX} of {source} can't be read as an index of weights; {_AGAIN}"
                           ) from error
    absent = sorted(set(listed.values()) - set(names))
    apart = [name for name in found if _SHARD.fullmatch(name) and name not in listed.values()]
    if absent or apart or not listed:
        words = (f"lists files that are not there: {some(absent)}" if absent else
                 f"does not list files that are beside it: {some(apart)}" if apart else "lists no weights")
        raise MissingInput(f"spec.model.source: {INDEX} of {source} {words}; {_AGAIN}, with all files")
    return sorted(set(listed.values())), set(listed)


def _compare(listed: set[str], held: Mapping[str, Tensor], source: str) -> None:
    for names, words in ((listed - set(held), "lists weights that its files do not contain"),
                         (set(held) - listed, "does not list weights that its files contain")):
        if names:
            raise MissingInput(f"spec.model.source: {INDEX} of {source} {words}: {some(names)}. It belongs to other "
                               f"files; {_AGAIN}, with all files")


def _read_header(name: str, start: Start, source: str) -> dict[str, Tensor]:
    first, size = start(name, len(_POINTER))
    where = f"spec.model.source: {name} of {source}"
    if first.startswith(_POINTER):
        raise MissingInput(f"{where} is a Git LFS pointer instead of the weights; run git lfs pull, or download the "
                           "model again without git")
    length = int.from_bytes(first[:_LENGTH_BYTES], "little")
    broken = f"{where} is not a safetensors file, or is damaged; {_AGAIN}"
    if size < _LENGTH_BYTES or length > _LONGEST_HEADER:
        raise MissingInput(broken)
    if size < _LENGTH_BYTES + length:
        raise MissingInput(f"{where} ends within its header, after {size} bytes; {_AGAIN}")
    content, _ = start(name, _LENGTH_BYTES + length)
    try:
        header = json.loads(content[_LENGTH_BYTES:].decode("utf-8"))
        tensors = {str(key): _tensor(value) for key, value in header.items() if key != "__metadata__"}
        end = max((int(value["data_offsets"][1]) for key, value in header.items() if key != "__metadata__"), default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise MissingInput(broken) from error
    needed = _LENGTH_BYTES + length + end
    if size < needed:
        raise MissingInput(f"{where} is incomplete: it has {size} bytes, and its header describes {needed}; {_AGAIN}")
    if size > needed:
        raise MissingInput(f"{where} has {size} bytes, and its header describes {needed}; {_AGAIN}")
    return tensors


def _tensor(value: Mapping[str, Any]) -> Tensor:
    shape = tuple(int(length) for length in value["shape"])
    if any(length < 0 for length in shape):
        raise ValueError(shape)
    return Tensor(str(value["dtype"]), shape)


def refuse_adapters(folder: Path, names: Sequence[str], source: str) -> None:
    """Refuse a folder with an adapter: transformers would load it into the model without a message.

    Raises:
        BadConfig: there is an adapter; the message says what to write instead.
    """
    if "adapter_config.json" not in names:
        return
    if "config.json" in names:
        raise BadConfig(f"spec.model.source: {source} contains an adapter (adapter_config.json) beside the model; "
                        "remove adapter_config.json and adapter_model.safetensors to start from the model alone, or "
                        "merge the adapter into the model and write the merged model")
    try:
        base = json.loads((folder / "adapter_config.json").read_text("utf-8")).get("base_model_name_or_path")
    except (ValueError, AttributeError, RecursionError, OSError):
        base = None
    raise BadConfig(f"spec.model.source: {source} is an adapter, not a model; write its base"
                    + (f", {str(base)[:200]}" if base else "")
                    + "; to continue from the adapter, merge it into its base first and write the merged model")
