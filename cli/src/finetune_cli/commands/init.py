"""`finetune init`: writes a commented sample job."""

from __future__ import annotations

import importlib.resources
from pathlib import Path

import click
from finetune_api import ExitCode

from finetune_cli.errors import CommandFailed
from finetune_cli.terminal import say


@click.command()
@click.argument("file", default="finetunejob.yaml", type=click.Path(path_type=Path))
def init(file: Path) -> None:
    """Write a commented sample job to FILE (finetunejob.yaml if left out). An existing file is never overwritten."""
    sample = importlib.resources.files("finetune_cli").joinpath("sample.yaml").read_text(encoding="utf-8")
    try:
        with file.open("x", encoding="utf-8") as target:
            target.write(sample)
    except FileExistsError as error:
        raise CommandFailed(f"{file} is already there: give another name, or remove it first",
                            ExitCode.OUTPUT_NOT_WRITABLE) from error
    except OSError as error:
        raise CommandFailed(f"{file}: {error.strerror or error}", ExitCode.OUTPUT_NOT_WRITABLE) from error
    say(f"Wrote {file}. Edit it, then: finetune validate {file} && finetune run {file}")
