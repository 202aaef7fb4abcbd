"""Reading the settings file."""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import ValidationError

from finetune_operator.errors import BadSettings
from finetune_operator.settings.settings import Settings


def load_settings(path: Path | None) -> Settings:
    """Read the settings file. Without a file, every setting has its default.

    Raises:
        BadSettings: the file is not valid; the message names each field.
        OSError: the file cannot be read.
    """
    if path is None:
        return Settings()
    try:
        document = yaml.safe_load(path.read_text("utf-8"))
        return Settings.model_validate(document or {}, strict=False)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadSettings(f"{path}: the file is not valid YAML: {error}") from error
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()]
        raise BadSettings("\n".join([f"{path}: these settings are not valid:", *lines])) from error
