"""What a stage finds: lines of JSON that the report reads."""

from __future__ import annotations

import gc
import json
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.gpu.settings import Settings

_NOT_SHOWN = ("trace", "table", "losses", "peaksMiB")

Finding = dict[str, Any]


class Check:
    """One stage of the check: its settings, and where its findings go.

    Attributes:
        stage: the stage's name.
        settings: the settings of the run.
    """

    def __init__(self, stage: str, settings: Settings) -> None:
        self.stage = stage
        self.settings = settings

    def say(self, **finding: Any) -> None:
        """Write a finding: a line of results.jsonl, and a shorter one of the log."""
        append(self.settings.out, {"stage": self.stage, **finding})
        shown = {key: value for key, value in finding.items() if key not in _NOT_SHOWN}
        print(json.dumps(shown, default=str)[:900], flush=True)

    @contextmanager
    def attempt(self, name: str) -> Iterator[None]:
        """What fails inside becomes a finding with `failed`, and the next thing is tried."""
        began = time.monotonic()
        try:
            yield
        except Exception as error:
            self.say(name=name, failed=f"{type(error).__name__}: {error}"[:600],
                     seconds=round(time.monotonic() - began, 1), trace=traceback.format_exc()[-3000:])
            # The frames of the exception keep the tensors of what failed alive.
            error.__traceback__ = None
        finally:
            release_memory()


def release_memory() -> None:
    """Give free memory back to the card."""
    import torch

    gc.collect()
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()


def append(out: Path, finding: Finding) -> None:
    """Add a line to results.jsonl."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / "results.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(finding, default=str) + "\n")


def read(out: Path) -> list[Finding]:
    """All findings, in the order in which they were made; none where nothing ran."""
    path = out / "results.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def forget(out: Path, stage: str) -> None:
    """Drop what a stage found before: it runs again."""
    kept = [one for one in read(out) if one["stage"] != stage]
    if kept or (out / "results.jsonl").exists():
        (out / "results.jsonl").write_text("".join(json.dumps(one, default=str) + "\n" for one in kept),
                                           encoding="utf-8")
