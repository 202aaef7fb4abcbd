"""Paths that somebody else wrote: in manifests, buckets, claims and model folders. Everybody who follows one asks here.

Such a path is relative and stays below its folder, links included.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

_LONGEST = 1024


def relative_path(path: str) -> str:
    """The path, if it is one below a folder.

    Raises:
        ValueError: it is empty, absolute or longer than 1024 characters, or has a `..`, an empty part or a control
            character.
    """
    parts = path.split("/")
    control = any(ord(character) < 32 or ord(character) == 127 for character in path)
    if len(path) > _LONGEST or control or any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"{path[:100]!r} is not a path below its folder")
    return path


RelativePath = Annotated[str, AfterValidator(relative_path)]
"""A path below the folder that names it."""


def below(folder: Path, path: str, boundary: Path | None = None, follow: bool = True) -> Path:
    """The path in a folder, which it does not leave.

    Args:
        folder: what the path is below of.
        path: the path.
        boundary: what no link may lead out of, such as a whole claim; left out: `folder`.
        follow: whether its last part is followed where it is a link; not when that is to be replaced.

    Raises:
        ValueError: it is no path below a folder, or a link leads out.
    """
    found = folder / relative_path(path)
    try:
        real = found.resolve() if follow else found.parent.resolve()
        inside = real.is_relative_to((boundary or folder).resolve())
    except (OSError, RuntimeError) as error:  # A link that leads to itself.
        raise ValueError(f"{path!r} is not a path below its folder: {error}") from error
    if not inside:
        raise ValueError(f"{path!r} is not a path below its folder: a link leads out of it")
    return found
