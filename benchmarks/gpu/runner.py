"""Runs stages, each in a process of its own with a limit, and none that would outlast the whole limit."""

from __future__ import annotations

import gc
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from benchmarks.gpu import findings
from benchmarks.gpu.findings import Check
from benchmarks.gpu.settings import Settings
from benchmarks.gpu.stages import Stage

SITES = "GPU_CHECK_SITE_"
"""Environment variable by stage (GPU_CHECK_SITE_UNSLOTH): a PYTHONPATH of its own. Unsloth wants other versions."""

SECONDS = "GPU_CHECK_SECONDS"
"""Environment variable: the time that a stage should plan with."""

_LEAST_SECONDS = 20
_PATIENCE = 4
"""Without a limit for all, a stage may take so many times as long: the card may be slower than an H100."""

_CUDNN_LAST = "TORCH_CUDNN_SDPA_DEPRIORITIZED"
_QUIET = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TQDM_DISABLE": "1",
          "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1",
          "UNSLOTH_DISABLE_STATISTICS": "1"}


class _Process(Protocol):
    """A stage's process."""

    def wait(self, seconds: float) -> int | None:
        """Its exit code; None if it does not end within these seconds."""
        ...

    def kill(self) -> None:
        """End it and all that it started."""
        ...


class Runner:
    """Runs the stages of one check.

    Args:
        settings: the settings of all stages.
        limit: seconds for all stages together; None for no limit.
    """

    def __init__(self, settings: Settings, limit: float | None) -> None:
        self._settings = settings
        self._limit, self._patience = (math.inf, _PATIENCE) if limit is None else (limit, 1)
        self._began = time.monotonic()
        self._log = settings.out / "log.txt"
        settings.out.mkdir(parents=True, exist_ok=True)
        settings.work.mkdir(parents=True, exist_ok=True)
        os.environ.update(_QUIET)
        os.environ.update(settings.to_environment())
        if settings.dry:
            os.environ.setdefault("OMP_NUM_THREADS", "1")

    def run(self, stages: Sequence[Stage]) -> None:
        """Run the stages in their order; each end becomes a finding."""
        if self._settings.dry:
            _import_everything()
        waiting: list[tuple[Stage, _Process, float]] = []
        for stage in stages:
            findings.forget(self._settings.out, stage.name)
        for stage in stages:
            left = self._limit - (time.monotonic() - self._began)
            if left < _LEAST_SECONDS:
                self._end(stage, "no time left")
                continue
            most = min(stage.seconds * self._patience, left)
            self._say(f"{stage.name}: at most {most:.0f} s")
            waiting.append((stage, self._start(stage, min(stage.seconds, left)), time.monotonic() + most))
            if not stage.beside_next:
                self._wait(waiting)
                waiting = []
        self._wait(waiting)

    def _wait(self, waiting: Sequence[tuple[Stage, _Process, float]]) -> None:
        for stage, process, deadline in waiting:
            code = process.wait(max(0.0, deadline - time.monotonic()))
            process.kill()
            self._end(stage, "timed out" if code is None else code)

    def _end(self, stage: Stage, how: int | str) -> None:
        findings.append(self._settings.out, {"stage": stage.name, "ended": how,
                                             "at": round(time.monotonic() - self._began, 1)})
        self._say(f"{stage.name}: {'done' if how == 0 else how}")

    def _say(self, text: str) -> None:
        line = f"[{time.monotonic() - self._began:.0f} s] {text}"
        print(line, flush=True)
        with self._log.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def _start(self, stage: Stage, seconds: float) -> _Process:
        environment = {**os.environ, SECONDS: f"{seconds:.0f}", _CUDNN_LAST: "0" if stage.cudnn_first else "1"}
        if self._settings.dry:
            return _Forked(stage, self._settings, environment, self._log)
        return _Started(stage, environment, self._log)


class _Started:
    """A stage in a new interpreter."""

    def __init__(self, stage: Stage, environment: Mapping[str, str], log: Path) -> None:
        site = environment.get(SITES + stage.name.upper().replace("-", "_"))
        own = {"PYTHONPATH": site} if site else {}
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.gpu", "--here", stage.name], env={**environment, **own},
                stdout=file, stderr=subprocess.STDOUT, start_new_session=True)

    def wait(self, seconds: float) -> int | None:
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def kill(self) -> None:
        _kill_group(self._process.pid)
        self._process.wait()


class _Forked:
    """A stage in a copy of this process, which has imported everything: for a dry run, where importing would take most
    of the time. Where a GPU was used, that is not possible.
    """

    def __init__(self, stage: Stage, settings: Settings, environment: Mapping[str, str], log: Path) -> None:
        self._process = multiprocessing.get_context("fork").Process(
            target=_forked, args=(stage, settings, environment, log))
        self._process.start()

    def wait(self, seconds: float) -> int | None:
        self._process.join(seconds)
        return self._process.exitcode

    def kill(self) -> None:
        _kill_group(self._process.pid)
        self._process.join()


def _forked(stage: Stage, settings: Settings, environment: Mapping[str, str], log: Path) -> None:
    os.setsid()
    os.environ.update(environment)
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    code = run_here(stage, settings)
    sys.stdout.flush()
    os._exit(code)


def run_here(stage: Stage, settings: Settings) -> int:
    """Run a stage in this process; 1 if it failed as a whole."""
    from finetune_trainer.run.quiet import silence_libraries
    from finetune_trainer.run.torch_variables import set_torch_variables

    silence_libraries()
    if stage.name != "unsloth":  # It sets variables of its own.
        set_torch_variables()
    check = Check(stage.name, settings)
    failed: list[Any] = []
    with check.attempt("the whole stage"):
        try:
            stage.call(check)
        except Exception as error:
            failed.append(error)
            traceback.print_exc()
            raise
    return int(bool(failed))


def _kill_group(pid: int | None) -> None:
    if pid is not None:
        try:
            os.killpg(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            return


def _import_everything() -> None:
    """What every stage needs, so that forked stages share it."""
    from finetune_trainer.run.quiet import silence_libraries

    silence_libraries()
    import bitsandbytes  # noqa: F401
    import datasets  # noqa: F401
    import finetune_trainer.methods
    import finetune_trainer.run.entry  # noqa: F401
    import peft  # noqa: F401
    import torch
    import trl.trainer.sft_trainer  # noqa: F401

    # Threads do not survive a fork: nothing may have computed in parallel before.
    torch.set_num_threads(1)
    # Garbage collection looks at every object, and would copy most of what forked stages share.
    gc.collect()
    gc.freeze()
