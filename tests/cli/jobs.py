"""Job files that the tests of the command line start from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from click.testing import CliRunner, Result
from finetune_api.rules import SMALLEST_SPEC, merge_patch
from finetune_cli.main import finetune


def write_job(path: Path, **sections: Any) -> Path:
    """Write the smallest job, with merge patches on its sections."""
    document = {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob", "metadata": {"name": "smallest"},
                "spec": merge_patch(SMALLEST_SPEC, sections)}
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return path


def call(*arguments: object) -> Result:
    """Run `finetune` in this process."""
    return CliRunner().invoke(finetune, [str(argument) for argument in arguments])
