"""Whether a model is there: read from its files' names and headers, in seconds, without torch and transformers."""

from __future__ import annotations

import os
from pathlib import Path

from finetune_api.spec.model import ModelSpec
from finetune_api.spec.output import S3Spec

from finetune_trainer.errors import BadConfig, MissingInput
from finetune_trainer.model.files.description import describe_model
from finetune_trainer.storage.fetch import fetch

HUB_SECONDS = 3.0
"""How long the hub has for its answer."""

_GGUF_MAGIC = b"GGUF"


def check_presence(spec: ModelSpec, s3: S3Spec | None, scratch: Path, network: bool) -> str | None:
    """Check that a model is there, with a configuration and weights in safetensors or GGUF.

    Args:
        spec: the model.
        s3: where an `s3://` location lies.
        scratch: where files from elsewhere are put.
        network: whether a bucket is read. The hub is asked in any case, for `HUB_SECONDS`, about a model that is not
            in the local cache.

    Returns:
        Why the model was not checked; None where it was.

    Raises:
        MissingInput: the model isn't there.
        BadConfig: its files are no model that the trainer reads.
    """
    source = spec.source
    if source.scheme == "hub":
        return _ask_hub(spec)
    if source.scheme != "file" and not network:
        return f"spec.model.source: {source} is checked while it is loaded"
    if source.path.lower().endswith(".gguf"):
        with fetch(source, s3, scratch).open("rb") as file:
            if file.read(len(_GGUF_MAGIC)) != _GGUF_MAGIC:
                raise BadConfig(f"spec.model.source: {source} is no GGUF file, although its name ends in .gguf; fetch "
                                "it again, or write another model")
        return None
    description = describe_model(spec, s3, scratch, lambda note: None)
    _ = description.config
    description.held()
    return None


def _ask_hub(spec: ModelSpec) -> str | None:
    """Look for a model of the hub in the local cache, then at the hub."""
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import (
        GatedRepoError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    name = str(spec.source)
    if isinstance(try_to_load_from_cache(name, "config.json", revision=spec.revision), str):
        return None
    try:
        HfApi(token=os.environ.get("HF_TOKEN")).model_info(name, revision=spec.revision, timeout=HUB_SECONDS)
    except GatedRepoError as error:
        raise MissingInput(f"spec.model.source: {name} is gated: accept its terms on the hub, and give a token in "
                           "tokenSecretRef (or the environment variable HF_TOKEN)") from error
    except RepositoryNotFoundError as error:
        raise MissingInput(f"spec.model.source: the hub has no model {name}, or it needs a token") from error
    except RevisionNotFoundError as error:
        raise MissingInput(f"spec.model.revision: {name} has no revision {spec.revision}; write one of its branches, "
                           "tags or commits") from error
    except OfflineModeIsEnabled as error:
        raise MissingInput(f"spec.model.source: {name} is not in the local cache, and HF_HUB_OFFLINE is set; unset "
                           "HF_HUB_OFFLINE, or write a model that is in the cache") from error
    except Exception as error:  # Its client passes on what its HTTP library raises.
        return f"spec.model.source: {name} was not checked: the hub did not answer ({type(error).__name__})"
    return None
