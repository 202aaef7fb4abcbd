"""The pods of a job on this machine, which train together over Gloo."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

from finetune_api import parse_job, resolve_defaults, spec_hash
from finetune_api.messages import Accelerator, RunConfig
from safetensors.torch import load_file

from tests.models import tiny_job
from tests.s3 import free_ports
from tests.trainer.runs import RunningPod, pod, workshop

# Two passes per step and process, so that there is a moment in the middle of a step.
TRAINING = {"training": {"batchSize": 8, "microBatchSize": 2}}


def configure(folder: Path, attempt=1, name="config", **sections) -> Path:
    """A run configuration of the tiny job in a folder, with sections changed."""
    spec = resolve_defaults(parse_job(tiny_job(folder, **{**TRAINING, **sections})).spec)
    config = folder / name
    config.mkdir(exist_ok=True)
    (config / "run.json").write_text(RunConfig(
        namespace="default", name="tiny", uid="0123-abcd", attempt=attempt, spec=spec, spec_hash=spec_hash(spec),
        accelerator=Accelerator(name="cpu", hourly_rate=Decimal("1.00")), allowed_plugins=("by-letters",),
    ).model_dump_json(exclude_none=True))
    return config


def configured_workshop(folder: Path, **sections) -> Path:
    """A folder with the tiny model, rows, and a run configuration."""
    configure(workshop(folder), **sections)
    return folder


class Pods:
    """The pods of a job's attempt, one for each fault (none: an empty one)."""

    def __init__(self, folder, faults=("", ""), configs=None, ports=(0, 0), child=pod):
        (rendezvous,) = free_ports(1)
        self.folder = folder
        self.running = [RunningPod(
            folder / f"log-{number}.txt",
            ["run", "--config", str((configs or [folder / "config"] * 2)[number]), "--port", str(ports[number]),
             "--termination-log", str(folder / f"termination-{number}")],
            {"FINETUNE_FAULT": fault, "HF_HUB_OFFLINE": "1", "FINETUNE_NODES": str(len(faults)),
             "JOB_COMPLETION_INDEX": str(number), "FINETUNE_RENDEZVOUS": f"127.0.0.1:{rendezvous}"}, child,
        ) for number, fault in enumerate(faults)]

    def wait(self):
        """How each ended."""
        return [running.wait() for running in self.running]


def run_pods(folder, faults=("", ""), **how):
    """Run the pods of an attempt, all of which have to succeed."""
    ended = Pods(folder, faults, **how).wait()
    assert [run.code for run in ended] == [0] * len(faults), "\n\n".join(run.output for run in ended)
    return ended


def home(folder: Path) -> Path:
    """The one job's folder in the output."""
    (found,) = (folder / "out").glob("default/tiny/*")
    return found


def weights(folder: Path):
    """What was published, by name."""
    (path,) = home(folder).glob("results/*/*/*.safetensors")
    return load_file(path)


def digest(folder: Path) -> str:
    """The published weights' sha256."""
    return json.loads((home(folder) / "manifest.json").read_text())["result"]["adapter"]["sha256"]
