"""Running jobs on the tiny model, each in a process of its own that can be stopped and killed."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.models import save_tiny_model, tiny_job, write_rows
from tests.trainer.faults import install_fault
from tests.trainer.judging import PLUGINS

SECONDS = 300
LORA = {"type": "LoRA", "lora": {"rank": 4, "alpha": 8, "dropout": 0.1}}
DORA: dict[str, Any] = {"type": "DoRA", "lora": None, "dora": {"rank": 4, "alpha": 8}}
METHODS = {
    "LoRA": LORA,
    "QLoRA": {**LORA, "quantization": "nf4"},
    "LoRA int8": {**LORA, "quantization": "int8"},
    "DoRA": DORA,
    "QDoRA": {**DORA, "quantization": "nf4"},
    "DoRA int8": {**DORA, "quantization": "int8"},
}

# The tiny job has a block for LoRA, which the other types can't have.
NO_LORA = {"lora": None}


def lora(quantization="none", **settings):
    return {"type": "LoRA", "lora": {"rank": 4, "alpha": 8, **settings}, "quantization": quantization}


def partial(**chosen):
    return {"type": "Partial", "partial": chosen, **NO_LORA}


def additive(technique, quantization="none", **settings):
    return {"type": "Additive", "additive": {"technique": technique, **settings}, "quantization": quantization,
            **NO_LORA}


MORE_METHODS = {
    "Full": {"type": "Full", **NO_LORA},
    "last layer": partial(lastLayers=1),
    "first layer": partial(layers=[0]),
    "BitFit": partial(parameters=["*.bias"]),
    "norms": partial(parameters=["*norm*"]),
    "embeddings": partial(parameters=["*embed*"]),
    "PiSSA": lora(initialization="pissa", dropout=0.1),
    "PiSSA, rslora": lora(initialization="pissa", rslora=True),
    "LoftQ": lora(initialization="loftq", quantization="nf4"),
    "LoRA+": lora(learningRateRatio=8.0),
    "DoRA+": {"type": "DoRA", "dora": {"rank": 4, "alpha": 8, "learningRateRatio": 8.0}, **NO_LORA},
    "IA3": additive("IA3"),
    "IA3 nf4": additive("IA3", "nf4"),
    "IA3 int8": additive("IA3", "int8"),
    "prompt tuning": additive("PromptTuning", virtualTokens=5),
    "prompt tuning nf4": additive("PromptTuning", "nf4", virtualTokens=5),
    "prefix tuning": additive("PrefixTuning", virtualTokens=5),
    "prefix tuning nf4": additive("PrefixTuning", "nf4", virtualTokens=5),
    "bottleneck": additive("Bottleneck", bottleneckSize=8),
    "bottleneck nf4": additive("Bottleneck", "nf4", bottleneckSize=8),
    "bottleneck int8": additive("Bottleneck", "int8", bottleneckSize=8),
}
"""Every method beside plain LoRA and DoRA. The model needs biases for BitFit."""

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.trainer.warm"])


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
        self.process = PROCESSES.Process(target=child, args=arguments)
        self.process.start()

    def wait(self, seconds: float = SECONDS) -> Run:
        """Its end."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.process.kill()
            raise AssertionError(f"no end after {seconds} s: {self._log.read_text()}")
        return Run(self.process.exitcode, self._log.read_text())

    def until(self, port: int, condition: Callable[[dict], bool], seconds: float = 120) -> dict:
        """The first `/progress` at a port that a condition holds of, while this process lives."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.process.is_alive():
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/progress", timeout=5) as answer:
                    message = json.load(answer)
            except OSError:
                message = None
            if message and condition(message):
                return message
            self.process.join(0.02)
        raise AssertionError(f"it did not come to that: {self.wait(1)}")


class RunningPod(Running):
    """A pod of a job: the trainer's entry with an environment of its own."""

    def __init__(self, log: Path, arguments: list[str], environment: dict[str, str],
                 child: Callable[..., None] | None = None) -> None:
        self._start(log, child or pod, arguments, {**os.environ, **environment}, log)


def run(folder: Path, fault="", **sections: Any) -> Run:
    """Run the tiny job to its end, with sections changed, and with a fault if one is wanted."""
    return Running(tiny_job(folder, **sections), folder / "log.txt", fault=fault).wait()


def assert_the_next_run_is_the_same_to_the_bit(stopped: Path, straight: Path, **sections: Any) -> None:
    """A run that was stopped goes on to what one comes to that never was."""
    resumed = run(stopped, **sections)
    assert resumed.code == 0, resumed.output
    assert "resuming from step" in resumed.output
    assert run(workshop(straight), **sections).code == 0
    assert manifest(stopped)["result"]["adapter"]["sha256"] == manifest(straight)["result"]["adapter"]["sha256"]


def _child(job: dict, environment: dict[str, str], log: Path, port: int | None) -> None:
    _become(environment, log)
    from finetune_api import parse_job
    from finetune_trainer.run.local import LocalOptions, run_job
    from rich.console import Console

    code = run_job(parse_job(job), Console(file=os.fdopen(1, "w"), width=200),
                   LocalOptions(port=port, allowed_plugins=("by-letters",)))
    sys.stdout.flush()
    os._exit(code)


def pod_with_simulated_accelerator(arguments: list[str], environment: dict[str, str], log: Path) -> None:
    """The trainer's entry on a node whose processors act as its GPU, in a process of its own."""
    pod(arguments, environment, log, simulates_accelerator=True)


def pod(arguments: list[str], environment: dict[str, str], log: Path, simulates_accelerator: bool = False) -> None:
    """The trainer's entry, in a process of its own."""
    _become(environment, log, simulates_accelerator)
    from finetune_trainer.__main__ import main

    code = main(arguments)
    sys.stdout.flush()
    os._exit(code)


def _become(environment: dict[str, str], log: Path, simulates_accelerator: bool = False) -> None:
    sys.path.append(str(PLUGINS))
    os.environ.clear()
    os.environ.update(environment)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(out, 1)
    os.dup2(out, 2)
    install_fault(environment, simulates_accelerator)


def manifest(folder: Path) -> dict:
    """The one manifest below the output."""
    (path,) = (folder / "out").glob("default/*/*/manifest.json")
    return json.loads(path.read_text())


def published(folder: Path) -> Path:
    """The folder of the one published result."""
    (path,) = (folder / "out").glob("default/*/*/manifest.json")
    return path.parent / "results" / str(manifest(folder)["attempt"])
