"""Making a model's files a local folder in safetensors: from the hub, S3, a claim, a folder, or a GGUF file."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune_api.spec.model import ModelSpec
from finetune_api.spec.output import S3Spec
from finetune_api.values.paths import below
from finetune_api.values.uris import Uri

from finetune_trainer.errors import BadConfig, MissingInput, first_line
from finetune_trainer.model.files.content import check_links, folder_digest
from finetune_trainer.model.files.weights import Tensor, read_weights, refuse_adapters, start_of
from finetune_trainer.model.reading import reading
from finetune_trainer.storage import mounted_claim, open_storage
from finetune_trainer.storage.digests import file_digest
from finetune_trainer.storage.fetch import fetch

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
DESCRIPTION = ("*.json", "*.jinja", "*.model", "*.txt", "tokenizer*", "vocab*", "merges*")
"""Patterns of all files of a model except its weights."""


@dataclass(frozen=True)
class ModelFiles:
    """A model on disk.

    Attributes:
        folder: holds safetensors, configuration and tokenizer.
        revision: the commit on the hub, or the SHA-256 of the weights.
        source: the model's location, for messages.
    """

    folder: Path
    revision: str
    source: str = ""

    @property
    def name(self) -> str:
        """The model's name in messages."""
        return self.source or self.folder.name


def cache_folder() -> Path:
    """The folder for converted and downloaded models: `FINETUNE_CACHE`, else `~/.cache/finetune`."""
    return Path(os.environ.get("FINETUNE_CACHE") or Path.home() / ".cache" / "finetune")


def find_model(spec: ModelSpec, s3: S3Spec | None, scratch: Path, say: Callable[[str], None]) -> ModelFiles:
    """Make a model's files local.

    Args:
        spec: the model.
        s3: the settings of an S3 server.
        scratch: the folder for downloaded files.
        say: prints a line about what takes time.

    Raises:
        MissingInput: the model does not exist, or can't be opened.
        BadConfig: its weights are pickled, its files are not a model, or a link leads out of its folder.
    """
    if spec.source.scheme == "hub":
        files = from_hub(spec, say, ("*.safetensors", *DESCRIPTION))
        check_weights(sorted(path.name for path in files.folder.iterdir()), str(spec.source))
        return files
    if spec.source.path.lower().endswith(".gguf"):
        return _from_gguf(fetch(spec.source, s3, scratch), say)
    folder = _from_s3(spec.source, s3, scratch, say) if spec.source.scheme == "s3" else local_folder(spec.source)
    names = sorted(path.name for path in folder.iterdir())
    refuse_adapters(folder, names, str(spec.source))
    require_config(folder, str(spec.source))
    check_weights(names, str(spec.source))
    return ModelFiles(folder, folder_digest(folder), str(spec.source))


def from_hub(spec: ModelSpec, say: Callable[[str], None], patterns: Sequence[str]) -> ModelFiles:
    """The files of a hub model whose names match one of the patterns.

    Raises:
        MissingInput: the model does not exist, or can't be opened.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    name = str(spec.source)
    say(f"downloading {name} from the hub")
    try:
        folder = Path(snapshot_download(name, revision=spec.revision, allow_patterns=list(patterns),
                                        token=os.environ.get("HF_TOKEN")))
    except GatedRepoError as error:
        raise MissingInput(f"spec.model.source: {name} is gated; accept its terms on the hub, and give a token in "
                           "spec.model.tokenSecretRef (with `finetune run`: in the variable HF_TOKEN)") from error
    except RepositoryNotFoundError as error:
        raise MissingInput(f"spec.model.source: the hub has no model {name}, or it needs a token; check the name, and "
                           "give a token in spec.model.tokenSecretRef if it is private") from error
    except LocalEntryNotFoundError as error:
        raise MissingInput(f"spec.model.source: {name} is not in the local cache, and the hub can't be reached; check "
                           "the name and the network") from error
    except (HfHubHTTPError, OSError) as error:
        raise MissingInput(f"spec.model.source: {name} can't be downloaded from the hub: {type(error).__name__}; "
                           "check the network") from error
    check_links(folder, name)
    return ModelFiles(folder, folder.name, name)


def weights_on_hub(spec: ModelSpec, folder: Path) -> dict[str, Tensor] | None:
    """The weights of a hub model by the headers of its files. No weights are downloaded.

    Args:
        spec: the model.
        folder: the local snapshot without weights.

    Returns:
        None where the hub can't be reached and the local cache has no weights.

    Raises:
        MissingInput: there are no weights in safetensors, or they can't be read.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, NotASafetensorsRepoError, SafetensorsParsingError

    name = str(spec.source)
    try:
        found = HfApi(token=os.environ.get("HF_TOKEN")).get_safetensors_metadata(name, revision=folder.name)
    except NotASafetensorsRepoError as error:
        raise MissingInput(f"spec.model.source: {name} has no model.safetensors; use a revision in safetensors, or "
                           "convert it") from error
    except SafetensorsParsingError as error:
        raise MissingInput(f"spec.model.source: the weights of {name} can't be read: {first_line(error)}") from error
    except (HfHubHTTPError, OSError):
        names = sorted(path.name for path in folder.iterdir())
        if not any(file.endswith(".safetensors") for file in names):
            return None
        return read_weights(folder, names, start_of(folder), name)
    return {tensor: Tensor(str(one.dtype), tuple(one.shape)) for file in found.files_metadata.values()
            for tensor, one in file.tensors.items()}


def _from_s3(source: Uri, s3: S3Spec | None, scratch: Path, say: Callable[[str], None]) -> Path:
    storage = open_storage(source, s3)
    keys = storage.keys("")
    if not keys:
        raise MissingInput(f"spec.model.source: there are no files at {source}; check the location")
    folder = scratch / "model"
    say(f"downloading {len(keys)} files from {source}")
    for key in keys:
        if not key.endswith(_PICKLES):
            storage.get_file(key, folder / key)
    return folder


def local_folder(source: Uri) -> Path:
    """The folder of a model on this machine or on a claim.

    Raises:
        MissingInput: the folder does not exist.
        BadConfig: a link leads out of it.
    """
    folder = source.local_path() if source.scheme == "file" else _claim_folder(source)
    if not folder.is_dir():
        raise MissingInput(f"spec.model.source: {source}: " + (
            "it is a file; write the folder with its config.json and tokenizer" if folder.is_file() else
            "no such folder; check the path"))
    check_links(folder, str(source), mounted_claim(source) if source.scheme == "pvc" else None)
    return folder


def _claim_folder(source: Uri) -> Path:
    claim = mounted_claim(source)
    try:
        return below(claim, source.path.rstrip("/")) if source.path else claim
    except ValueError as error:
        raise BadConfig(f"spec.model.source: {source}: {error}") from error


def require_config(folder: Path, name: str) -> None:
    """Refuse a folder without a model's configuration.

    Raises:
        MissingInput: there is no config.json. The message names a folder below that has one, as the hub's cache has.
    """
    if not (folder / "config.json").is_file():
        below_it = sorted({*folder.glob("*/config.json"), *folder.glob("snapshots/*/config.json")})
        raise MissingInput(f"spec.model.source: {name} has no config.json" + (
            f"; {below_it[0].parent.relative_to(folder)} in it has one; write that folder" if below_it else ""))


def check_weights(names: Sequence[str], name: str) -> None:
    """Refuse files that are not a model, and pickled weights: unpickling runs code from the file.

    Raises:
        MissingInput: there are no weights, or no configuration.
        BadConfig: the weights are a pickle.
    """
    if not any(file.endswith(".safetensors") for file in names):
        pickled = [file for file in names if file.endswith(_PICKLES)]
        if pickled:
            raise BadConfig(f"spec.model.source: the weights of {name} are a pickle ({pickled[0]}), which can run code "
                            "when it is read; use a revision in safetensors, or convert it")
        raise MissingInput(f"spec.model.source: {name} has no *.safetensors file")
    if "config.json" not in names:
        raise MissingInput(f"spec.model.source: {name} has no config.json")


def _from_gguf(path: Path, say: Callable[[str], None]) -> ModelFiles:
    """The weights of a GGUF file as float32 safetensors, cached under the file's digest."""
    digest = file_digest(path)
    folder = cache_folder() / "gguf" / digest
    if (folder / "config.json").is_file():
        check_links(folder, path.name)  # Other jobs of the namespace can write to the cache.
        return ModelFiles(folder, digest, path.name)
    say(f"converting {path.name} to safetensors (once; the cache is {cache_folder()})")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from finetune_trainer.model.files.load_report import refuse_made_up

    folder.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".building-"))
    try:
        with reading(f"{path.name} as GGUF"):
            model, report = AutoModelForCausalLM.from_pretrained(
                path.parent, gguf_file=path.name, dtype=torch.float32, output_loading_info=True,
                ignore_mismatched_sizes=True, trust_remote_code=False)
            tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, trust_remote_code=False)
        refuse_made_up(report, model.config, type(model).__name__, False, path.name)
        # The weights are dequantised now. Settings that say otherwise would prevent the job's own quantization.
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        if hasattr(model, "hf_quantizer"):
            del model.hf_quantizer
        model.is_quantized = False
        model.save_pretrained(building)
        tokenizer.save_pretrained(building)
        (building / "source.json").write_text(json.dumps({"gguf": path.name, "sha256": digest}))
        building.rename(folder)
    except OSError:
        # Another process may have finished the same conversion in the meantime.
        if not (folder / "config.json").is_file():
            raise
    finally:
        shutil.rmtree(building, ignore_errors=True)
    logging.getLogger(__name__).info("converted %s", path.name)
    return ModelFiles(folder, digest, path.name)
