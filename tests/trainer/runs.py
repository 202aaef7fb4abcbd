"""Running jobs on the tiny model, each in a process of its own that can be stopped and killed."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.models import save_tiny_model, tiny_job, write_rows

SECONDS = 300
LORA = {"type": "LoRA", "lora": {"rank": 4, "alpha": 8, "dropout": 0.1}}
DORA = {"type": "DoRA", "lora": None, "dora": {"rank": 4, "alpha": 8}}
METHODS = {
    "LoRA": LORA,
    "QLoRA": {**LORA, "quantization": "nf4"},
    "LoRA int8": {**LORA, "quantization": "int8"},
    "DoRA": DORA,
    "QDoRA": {**DORA, "quantization": "nf4"},
    "DoRA int8": {**DORA, "quantization": "int8"},
}

# Every process is forked from one that has imported torch and the rest already: these imports take most of a tiny run.
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["finetune_trainer.pipeline", "finetune_trainer.local"])


@dataclass(frozen=True)
class Run:
    """What a run printed and how it ended: its exit code, or minus the signal that killed it."""

    code: int
    output: str


def workshop(folder: Path, rows: int = 40) -> Path:
    """A folder with the tiny model and rows to learn from."""
    folder.mkdir(parents=True, exist_ok=True)
    save_tiny_model(folder / "model")
    write_rows(folder / "rows.jsonl", rows)
    return folder


class Running:
    """A run that goes on."""

    def __init__(self, job: dict, log: Path, port: int | None = None, fault: str = "") -> None:
        environment = {**os.environ, "FINETUNE_FAULT": fault}
        self._start(log, _child, job, environment, log, port)

    def _start(self, log: Path, child: Callable[..., None], *arguments: object) -> None:
        self._log = log
        self.process = _PROCESSES.Process(target=child, args=arguments)
        self.process.start()

    def wait(self, seconds: float = SECONDS) -> Run:
        """Its end."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.process.kill()
            raise AssertionError(f"no end after {seconds} s: {self._log.read_text()}")
        return Run(self.process.exitcode, self._log.read_text())


class RunningPod(Running):
    """A pod of a job: the trainer's entry with an environment of its own."""

    def __init__(self, log: Path, arguments: list[str], environment: dict[str, str]) -> None:
        self._start(log, _pod, arguments, {**os.environ, **environment}, log)


def run(folder: Path, fault: str = "", **sections: dict) -> Run:
    """Run the tiny job to its end, with sections changed, and with a fault if one is wanted."""
    return Running(tiny_job(folder, **sections), folder / "log.txt", fault=fault).wait()


def _child(job: dict, environment: dict[str, str], log: Path, port: int | None) -> None:
    _become(environment, log)
    from finetune_api import parse_job
    from finetune_trainer.local import run_job
    from rich.console import Console

    code = run_job(parse_job(job), port=port, rerun=False, console=Console(file=os.fdopen(1, "w"), width=200))
    sys.stdout.flush()
    os._exit(code)


def _pod(arguments: list[str], environment: dict[str, str], log: Path) -> None:
    _become(environment, log)
    from finetune_trainer.__main__ import main

    code = main(arguments)
    sys.stdout.flush()
    os._exit(code)


def _become(environment: dict[str, str], log: Path) -> None:
    os.environ.clear()
    os.environ.update(environment)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(out, 1)
    os.dup2(out, 2)


def manifest(folder: Path) -> dict:
    """The one manifest below the output."""
    (path,) = (folder / "out").glob("default/*/*/manifest.json")
    return json.loads(path.read_text())


def published(folder: Path) -> Path:
    """The folder of the one published result."""
    (path,) = (folder / "out").glob("default/*/*/manifest.json")
    return path.parent / "results" / str(manifest(folder)["attempt"])
