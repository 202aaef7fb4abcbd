"""A model without its weights: configuration, tokenizer, and the headers of the weight files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

from finetune_api.spec.model import ModelSpec
from finetune_api.spec.output import S3Spec

from finetune_trainer.errors import MissingInput
from finetune_trainer.model.files.find import (
    DESCRIPTION,
    ModelFiles,
    check_weights,
    from_hub,
    local_folder,
    require_config,
    weights_on_hub,
)
from finetune_trainer.model.files.json_files import read_object
from finetune_trainer.model.files.weights import Tensor, read_weights, refuse_adapters, start_of
from finetune_trainer.model.reading import reading
from finetune_trainer.storage import open_storage
from finetune_trainer.storage.fetch import fetch


@dataclass(frozen=True)
class Description:
    """A model without its weights.

    Attributes:
        files: configuration and tokenizer. Only a model of the hub has a revision here.
        names: the names of all files of the model; None for a model of the hub.
        source: the model's location, for messages.
        weights: reads the headers of the weight files; None for a GGUF file.
    """

    files: ModelFiles
    names: tuple[str, ...] | None
    source: str
    weights: Callable[[], Mapping[str, Tensor] | None] | None

    @property
    def config(self) -> dict[str, Any]:
        """The model's `config.json`.

        Raises:
            BadConfig: it is not JSON, or holds no object.
            MissingInput: it is not there.
        """
        return read_object(self.files.folder, "config.json", self.source)

    def held(self) -> Mapping[str, Tensor] | None:
        """The weights by the headers of their files; None where the files would have to be downloaded for that.

        Raises:
            MissingInput: there are no weights, or a file is missing or damaged.
            BadConfig: the weights are pickled.
        """
        if self.weights is None:
            return None
        if self.names is not None:
            check_weights(self.names, self.source)
        return self.weights()


def describe_model(spec: ModelSpec, s3: S3Spec | None, scratch: Path, say: Callable[[str], None]) -> Description:
    """Make a model's configuration and tokenizer local. Weights are downloaded only within a GGUF file.

    Raises:
        MissingInput: the model does not exist, or can't be opened.
        BadConfig: it is not a model.
    """
    name = str(spec.source)
    weights: Callable[[], Mapping[str, Tensor] | None] | None
    if spec.source.scheme == "hub":
        files, names = from_hub(spec, say, DESCRIPTION), None
        weights = partial(weights_on_hub, spec, files.folder)
    elif spec.source.path.lower().endswith(".gguf"):
        files, names = _from_gguf(fetch(spec.source, s3, scratch), scratch / "description"), None
        weights = None
    elif spec.source.scheme == "s3":
        storage = open_storage(spec.source, s3)
        keys = storage.keys("")
        if not keys:
            raise MissingInput(f"spec.model.source: there are no files at {name}; check the location")
        for key in keys:
            if "/" not in key and any(fnmatch(key, pattern) for pattern in DESCRIPTION):
                storage.get_file(key, scratch / "description" / key)
        files, names = ModelFiles(scratch / "description", "", name), tuple(keys)
        weights = partial(read_weights, files.folder, names, storage.get_start, name)
    else:
        folder = local_folder(spec.source)
        files, names = ModelFiles(folder, "", name), tuple(sorted(path.name for path in folder.iterdir()))
        weights = partial(read_weights, folder, names, start_of(folder), name)
    refuse_adapters(files.folder, [path.name for path in files.folder.iterdir()], name)
    require_config(files.folder, name)
    return Description(files, names, name, weights)


def _from_gguf(path: Path, folder: Path) -> ModelFiles:
    from transformers import AutoConfig, AutoTokenizer

    with reading(f"{path.name} as GGUF"):
        config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name, trust_remote_code=False)
        # The weights are dequantised before training.
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        config.save_pretrained(folder)
        AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, trust_remote_code=False).save_pretrained(folder)
    return ModelFiles(folder, "", path.name)
