"""Changed parameters of a model: the published folder, and how it is put back.

`changed.safetensors` holds each changed parameter whole, under its full name in the model; `changed.json` names the
base model and what was chosen.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

WEIGHTS = "changed.safetensors"
DESCRIPTION = "changed.json"


def save_partial(model: torch.nn.Module, folder: Path, base_model: str, revision: str | None,
                 chosen: Mapping[str, Any]) -> None:
    """Write the parameters of a model that require gradients.

    Args:
        model: with the changed parameters.
        folder: where to; made if it isn't there.
        base_model: the model that they belong to.
        revision: its commit, tag or branch, if one was given.
        chosen: what they were chosen by.
    """
    folder.mkdir(parents=True, exist_ok=True)
    changed = {name: parameter.detach().contiguous() for name, parameter in model.named_parameters()
               if parameter.requires_grad}
    save_file(changed, folder / WEIGHTS, metadata={"format": "pt"})
    description = {"baseModel": base_model, "revision": revision, "chosen": dict(chosen), "parameters": sorted(changed)}
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


def load_partial(model: torch.nn.Module, folder: str | Path) -> None:
    """Put published parameters into a loaded base model, in place, in the type that the model is in.

    Args:
        model: the base model.
        folder: the published folder.

    Raises:
        ValueError: the model has no parameter of such a name, or one of another shape.
    """
    weights = load_file(Path(folder) / WEIGHTS)
    parameters = dict(model.named_parameters())
    for name, value in weights.items():
        if name not in parameters or parameters[name].shape != value.shape:
            found = tuple(parameters[name].shape) if name in parameters else "none"
            raise ValueError(f"{folder}: {name} has the shape {tuple(value.shape)} here, and in the model {found}: is "
                             f"that the base model that {DESCRIPTION} names?")
    with torch.no_grad():
        for name, value in weights.items():
            parameters[name].copy_(value)
