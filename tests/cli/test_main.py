"""The entry of `finetune`: its help, its version, and how errors reach the shell."""

from __future__ import annotations

import errno
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from finetune_api import FieldError, InvalidJob
from finetune_cli.commands.run import DEBUG
from finetune_cli.main import Commands

from tests.cli.jobs import call


def _ending(error: BaseException, debug: bool = False) -> Result:
    """How a command ends that raises `error`."""

    @click.command()
    @click.pass_context
    def fail(context: click.Context) -> None:
        context.meta[DEBUG] = debug
        raise error

    return CliRunner().invoke(Commands("finetune", commands=[fail]), ["fail"])


def test_the_installed_command_tells_its_version():
    command = Path(sys.executable).parent / "finetune"
    done = subprocess.run([command, "--version"], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"finetune, version {version('finetune-cli')}\n", "")


def test_the_help_names_every_command():
    result = call("--help")
    assert result.exit_code == 0
    assert all(f"\n  {name} " in result.stdout for name in ("run", "validate", "estimate", "init", "explain"))


@pytest.mark.parametrize("command", ["run", "validate", "estimate", "init", "explain"])
def test_every_command_has_help(command):
    result = call(command, "--help")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"Usage: finetune {command} ")


@pytest.mark.parametrize(("arguments", "message"), [
    (["--frob"], "No such option"), (["frob"], "No such command 'frob'"), (["run"], "Missing argument 'FILE'"),
    (["run", "a", "b"], "unexpected extra argument"),
])
def test_wrong_usage_exits_64_and_points_at_the_help(arguments, message):
    result = call(*arguments)
    assert result.exit_code == 64
    assert message in result.stderr
    assert "--help" in result.stderr


def test_an_invalid_job_exits_64_with_its_text():
    result = _ending(InvalidJob([FieldError("spec.model", None, "missing")], "job.yaml"))
    assert (result.exit_code, result.stderr) == (64, "job.yaml: 1 error\n  spec.model: missing\n")


def test_an_interrupt_exits_130():
    result = _ending(KeyboardInterrupt())
    assert (result.exit_code, result.stderr) == (130, "interrupted\n")


def test_what_nobody_foresaw_is_a_sentence_and_exits_1():
    result = _ending(ZeroDivisionError("division by zero"))
    assert (result.exit_code, result.stderr) == (
        1, "ZeroDivisionError: division by zero (finetune run --debug shows where)\n")


def test_with_debug_what_nobody_foresaw_keeps_its_traceback():
    error = ZeroDivisionError("division by zero")
    assert _ending(error, debug=True).exception is error


def test_a_reader_that_went_away_is_no_error_to_tell_of():
    result = _ending(BrokenPipeError(errno.EPIPE, "Broken pipe"))
    assert (result.exit_code, result.output) == (1, "")
