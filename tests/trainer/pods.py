"""A job's pods on this machine: processes that find each other at a port of their own."""

from __future__ import annotations

import json

from finetune_api import parse_job, resolve_defaults, spec_hash
from finetune_api.messages import Accelerator, RunConfig
from safetensors.torch import load_file

from tests.models import tiny_job
from tests.s3 import free_ports
from tests.trainer.runs import RunningPod, workshop

# Two passes per step and process, so that there is a moment in the middle of a step.
TRAINING = {"training": {"batchSize": 8, "microBatchSize": 2}}


def configure(folder, attempt=1, name="config", **sections):
    """What the operator gives each pod of a job."""
    spec = resolve_defaults(parse_job(tiny_job(folder, **{**TRAINING, **sections})).spec)
    config = folder / name
    config.mkdir(exist_ok=True)
    (config / "run.json").write_text(RunConfig(
        namespace="default", name="tiny", uid="0123-abcd", attempt=attempt, spec=spec, spec_hash=spec_hash(spec),
        accelerator=Accelerator(name="cpu", hourly_rate="1.00"),
    ).model_dump_json(exclude_none=True))
    return config


class Pods:
    """The pods of a job's attempt, one for each fault (none: an empty one)."""

    def __init__(self, folder, faults=("", ""), configs=None, ports=(0, 0)):
        (rendezvous,) = free_ports(1)
        self.folder = folder
        self.running = [RunningPod(
            folder / f"log-{number}.txt",
            ["run", "--config", str((configs or [folder / "config"] * 2)[number]), "--port", str(ports[number]),
             "--termination-log", str(folder / f"termination-{number}")],
            {"FINETUNE_FAULT": fault, "HF_HUB_OFFLINE": "1", "FINETUNE_NODES": str(len(faults)),
             "JOB_COMPLETION_INDEX": str(number), "FINETUNE_RENDEZVOUS": f"127.0.0.1:{rendezvous}"},
        ) for number, fault in enumerate(faults)]

    def wait(self):
        """How each ended."""
        return [pod.wait() for pod in self.running]


def run_pods(folder, faults=("", "")):
    """How a job's pods ended, all of them well."""
    ended = Pods(folder, faults).wait()
    assert [run.code for run in ended] == [0] * len(faults), "\n\n".join(run.output for run in ended)
    return ended


def home(folder):
    """Where the job's output is."""
    (found,) = (folder / "out").glob("default/tiny/*")
    return found


def adapter(folder):
    """What was published, by name."""
    (path,) = home(folder).glob("results/*/*/*.safetensors")
    return load_file(path)


def digest(folder):
    """Its sha256, as the manifest has it."""
    return json.loads((home(folder) / "manifest.json").read_text())["result"]["adapter"]["sha256"]


def pod_workshop(folder, **sections):
    """A workshop with what pods are given."""
    configure(workshop(folder), **sections)
    return folder
