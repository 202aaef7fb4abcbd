"""`finetune init`: writes a commented sample of a job or of an experiment."""

from __future__ import annotations

import importlib.resources
import textwrap
from pathlib import Path

import click
from finetune_api import ExitCode

from finetune_cli.errors import CommandFailed
from finetune_cli.terminal import say


@click.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--experiment", is_flag=True, help="Write an experiment: variants of the sample job, compared.")
def init(file: Path | None, experiment: bool) -> None:
    """Write a commented sample job to FILE (finetunejob.yaml if left out; with --experiment: experiment.yaml).

    An existing file is never overwritten.
    """
    file = file or Path("experiment.yaml" if experiment else "finetunejob.yaml")
    try:
        with file.open("x", encoding="utf-8") as target:
            target.write(sample_experiment() if experiment else sample_job())
    except FileExistsError as error:
        raise CommandFailed(f"{file} is already there: give another name, or remove it first",
                            ExitCode.OUTPUT_NOT_WRITABLE) from error
    except OSError as error:
        raise CommandFailed(f"{file}: {error.strerror or error}", ExitCode.OUTPUT_NOT_WRITABLE) from error
    say(f"Wrote {file}. Edit it, then: finetune validate {file} && finetune run {file}")


def sample_job() -> str:
    """The text of the sample job."""
    return _text("sample.yaml")


def sample_experiment() -> str:
    """The text of the sample experiment; its template is the sample job."""
    spec = sample_job().partition("\nspec:\n")[2]
    return _text("sample_experiment.yaml") + textwrap.indent(f"spec:\n{spec}", "    ")


def _text(name: str) -> str:
    return importlib.resources.files("finetune_cli").joinpath(name).read_text(encoding="utf-8")
