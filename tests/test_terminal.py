"""What others wrote is shown on a terminal and never obeyed by it."""

import ast
import io
import json
import logging
from pathlib import Path

import pytest
from finetune_api.exit_codes import ExitCode
from finetune_api.messages import Outcome, Result, Stage
from finetune_api.values.printable import printable
from finetune_operator.telemetry.logs import JsonLines, TextLines
from finetune_trainer.clock import SystemClock
from finetune_trainer.progress.console import ConsoleObserver
from finetune_trainer.progress.terminal import Terminal, say
from finetune_trainer.report.run_end import RunEnd
from finetune_trainer.report.terminal import show_end
from rich.table import Table

from tests.cli.jobs import call

ROOT = Path(__file__).parents[1]
HOSTILE = "a\x1b]0;owned\x07b\x9b31mc\rd\u202ee\x08f\x7fg"
SHOWN = r"a\u001b]0;owned\u0007b\u009b31mc\u000dd\u202ee\u0008f\u007fg"
# Tables and pages of our own texts.
TABLES = {f"cli/src/finetune_cli/{name}" for name in (
    "commands/estimate.py", "commands/explain.py", "estimate_alternatives.py", "experiment_estimate.py")}


@pytest.mark.parametrize(("text", "shown"), [
    (HOSTILE, SHOWN), ("two\nlines\tand 한글 é 👩‍🚀", "two\nlines\tand 한글 é 👩‍🚀"), ("\ud83d", r"\ud83d"),
    ("\u2066x\u2069", r"\u2066x\u2069"), ("", ""),
])
def test_control_characters_are_shown_as_escapes_and_nothing_else_is(text, shown):
    assert printable(text) == shown


def test_a_json_line_means_the_same_when_it_is_printable():
    line = json.dumps({HOSTILE: HOSTILE}, ensure_ascii=False)
    assert json.loads(printable(line)) == {HOSTILE: HOSTILE}


@pytest.fixture(params=[True, False], ids=["terminal", "file"])
def terminal(request):
    return Terminal(file=io.StringIO(), force_terminal=request.param, width=200)


def test_notes_tables_and_endings_reach_a_terminal_clean(terminal):
    observer = ConsoleObserver(terminal, SystemClock())
    observer.on_stage(Stage.TRAINING)
    observer.on_note(HOSTILE)
    observer.on_answers(1, 2)
    observer.close()
    table = Table(title=HOSTILE)
    table.add_column(HOSTILE)
    table.add_row(HOSTILE)
    terminal.print(table)
    show_end(terminal, RunEnd(ExitCode.BAD_DATA, Result(outcome=Outcome.BAD_DATA, message=HOSTILE)))
    text = terminal.file.getvalue()
    assert text.count(r"a\u001b]0;owned") >= 4  # Rich itself drops some others.
    assert not {"\x07", "\x08", "\x9b", "\u202e", "\x7f"} & set(text)
    assert "\x1b]" not in text


def test_a_line_is_printed_clean(capsys):
    say(HOSTILE)
    assert capsys.readouterr().out == f"{SHOWN}\n"


def test_a_jobs_unknown_keys_and_values_reach_the_shell_clean(tmp_path):
    job = tmp_path / "job.yaml"
    job.write_text('kind: FineTuneJob\n"\\e]0;owned\\a": "\\e[31m"\nmetadata: {name: "\\e[2J"}\n')
    result = call("validate", job)
    assert result.exit_code == 64
    assert r"\u001b]0;owned\u0007" in result.stderr
    assert "\x1b" not in result.output + result.stderr


@pytest.mark.parametrize("formatter", [JsonLines(), TextLines("%(message)s")], ids=["json", "text"])
def test_the_operators_log_is_clean(formatter):
    line = formatter.format(logging.makeLogRecord({"msg": "%s", "args": (HOSTILE,)}))
    assert SHOWN.replace("\\u000d", "\\r").replace("\\u0008", "\\b") in line or SHOWN in line
    assert printable(line) == line


def test_nothing_else_prints():
    wild = []
    for path in [*ROOT.glob("cli/src/**/*.py"), *ROOT.glob("trainer/src/**/*.py")]:
        name = str(path.relative_to(ROOT))
        if path.name == "terminal.py" and "report" not in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            # A program's child writes to a pipe.
            if called in ("print", "click.echo", "click.secho", "sys.stdout.write", "sys.stderr.write") or (
                    called == "Console" and name not in TABLES):
                wild.append(f"{name}:{node.lineno}: {called}")
    assert wild == []
