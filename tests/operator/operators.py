"""An operator as a process of its own, as it runs in its pod."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.cluster.control_plane import ControlPlane
from tests.cluster.processes import Process
from tests.cluster.waiting import wait_for
from tests.operator import faulty_operator

PLAIN = ("-m", "finetune_operator")
FAULTY = ("-P", faulty_operator.__file__)
SETTINGS = {"trainerImage": "registry.invalid/trainer:1", "progressInterval": "1s", "retryDelay": "1s"}


class Operator:
    """A running operator.

    Attributes:
        process: its process; its log tells what it did.
    """

    def __init__(self, plane: ControlPlane, namespace: str | None = None, *, settings: dict[str, Any] | None = None,
                 fault: str | None = None, lease: str | None = None, identity: str = "one",
                 kubeconfig: Path | None = None) -> None:
        file = plane.folder / f"settings-{namespace}-{identity}.yaml"
        file.write_text(yaml.safe_dump({**SETTINGS, **(settings or {})}))
        arguments: list[str | Path] = [
            "--kubeconfig", kubeconfig or plane.kubeconfig, "--settings", file, "--metrics-port", "0",
            "--identity", identity]
        if namespace:
            arguments += ["--namespace", namespace]
        if lease:
            arguments += ["--lease", lease]
        self._start(plane, f"{namespace}-{identity}-{file.stat().st_mtime_ns}", arguments, fault)

    @classmethod
    def with_arguments(cls, plane, name: str, arguments: Sequence[str | Path]) -> Operator:
        """One that is started as somebody else says, such as a Deployment."""
        operator = cls.__new__(cls)
        operator._start(plane, name, arguments, None)
        return operator

    def _start(self, plane: ControlPlane, name: str, arguments: Sequence[str | Path], fault: str | None) -> None:
        self.process: Process = plane.run.start(
            f"operator-{name}", [sys.executable, *(FAULTY if fault else PLAIN), *arguments],
            {faulty_operator.VARIABLE: f"kill:{fault}",
             # Compiling 900 modules at every start would take four seconds; the image has them compiled.
             "PYTHONDONTWRITEBYTECODE": ""})

    def metrics(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        """What /metrics shows, by name and labels."""
        return {(sample.name, frozenset(sample.labels.items())): sample.value
                for family in text_string_to_metric_families(self.exposition()) for sample in family.samples}

    def exposition(self) -> str:
        """What /metrics answers."""
        return self.get("/metrics").text

    def get(self, path: str) -> httpx.Response:
        """What its server answers."""
        return httpx.get(f"http://127.0.0.1:{self.port()}{path}", trust_env=False, timeout=10)

    def port(self) -> int:
        """Where it serves."""
        told = wait_for(lambda: re.search(r"metrics at port (\d+)", self.process.log.read_text()), "its metrics")
        return int(told[1])

    def requests(self, *methods: str) -> float:
        """How many requests it made to the apiserver; all, or those of some methods."""
        return sum(value for (name, labels), value in self.metrics().items()
                   if name == "finetune_operator_api_requests_total"
                   and (not methods or dict(labels)["method"] in methods))

    def stop(self) -> None:
        """Ask it to end, as a rollout does; pytest shows its log where a test failed."""
        self.process.stop(grace_seconds=20)
        print(self.process.tail())  # noqa: T201
