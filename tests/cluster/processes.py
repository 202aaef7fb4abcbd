"""The processes of one test run, and a record of them that outlives a crash of it."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from tests.cluster.binaries import Unavailable
from tests.cluster.cache import cache_folder
from tests.cluster.waiting import wait_for

JOURNAL = "journal.jsonl"


@dataclass(frozen=True)
class Identity:
    """One process of this boot: its id alone may belong to a stranger by the time it is read.

    Attributes:
        pid: its id.
        started: its start time, in clock ticks since boot.
    """

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> Identity | None:
        """That of a process that runs now; None where none does, or a zombie."""
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return None
        # The second field is the program's name in brackets, which may hold spaces and brackets itself.
        fields = stat.rpartition(")")[2].split()
        return None if fields[0] in "ZX" else cls(pid, int(fields[19]))

    def runs(self) -> bool:
        return Identity.of(self.pid) == self

    def kill(self) -> None:
        """Ends it at once, if it still runs; returns when it is gone."""
        if self.runs():
            os.kill(self.pid, signal.SIGKILL)
            wait_for(lambda: not self.runs(), f"process {self.pid} to end", 10)


@dataclass
class Process:
    """A process that a run started, with its output in a file."""

    name: str
    log: Path
    popen: subprocess.Popen[bytes]

    @property
    def pid(self) -> int:
        return self.popen.pid

    def running(self) -> bool:
        """True while it runs.

        Raises:
            RuntimeError: it ended by itself; quotes the end of its log.
        """
        if (code := self.popen.poll()) is not None:
            raise RuntimeError(f"{self.name} ended with {code}:\n{self.tail()}")
        return True

    def tail(self, characters: int = 3000) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-characters:]

    def stop(self, grace_seconds: float = 5) -> None:
        """Asks it to end, and ends it after the grace; with a grace of 0 at once. Returns when it is gone."""
        if grace_seconds and self.popen.poll() is None:
            self.popen.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.popen.wait(grace_seconds)
        self.popen.kill()
        self.popen.wait()


class Run:
    """A folder with everything that one test run has running.

    What is started is written down first, so that the next run can clean up after this one if it is killed. Processes
    also die with the thread that started them: start them from one that stays, such as pytest's main thread.

    Attributes:
        folder: for logs, data and certificates; removed with the run.
    """

    def __init__(self, root: Path | None = None):
        self._root = root or runs_folder()
        self._processes: list[Process] = []
        self._locks: list[TextIO] = []
        clean_up(self._root)
        owner = Identity.of(os.getpid())
        assert owner is not None
        # The owner is the folder's name: so there is never a folder whose owner is not known yet.
        self.folder = self._root / f"{owner.pid}-{owner.started}-{secrets.token_hex(3)}"
        self.folder.mkdir(parents=True)

    def start(self, name: str, command: Sequence[str | Path], env: dict[str, str] | None = None) -> Process:
        """Starts a process whose output goes to NAME.log."""
        setpriv = shutil.which("setpriv")
        if setpriv is None:
            raise Unavailable("setpriv (util-linux) is not installed: tests start servers so that they die with them")
        log = self.folder / f"{name}.log"
        with log.open("ab") as output:
            popen = subprocess.Popen([setpriv, "--pdeathsig", "KILL", "--", *map(str, command)], stdout=output,
                                     stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=self.folder,
                                     env={**os.environ, **(env or {})})
        self.note_process(popen.pid)
        process = Process(name, log, popen)
        self._processes.append(process)
        return process

    def note_process(self, pid: int) -> None:
        """Notes a process that something else started, to be ended with the run."""
        if identity := Identity.of(pid):
            self._note({"pid": identity.pid, "started": identity.started})

    def at_end(self, undo: Sequence[str | Path]) -> None:
        """Notes a command that undoes something that outlives processes: a network device, a group of processes."""
        self._note({"undo": [str(part) for part in undo]})

    def take(self, lock: Path) -> bool:
        """Takes a lock for as long as this run; false if another run has it. It is free again if this process dies."""
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return False
        self._locks.append(file)
        return True

    def _note(self, entry: dict[str, object]) -> None:
        with (self.folder / JOURNAL).open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def stop(self) -> None:
        """Ends everything, the last started first, and removes the folder."""
        for process in reversed(self._processes):
            process.stop(grace_seconds=0)
        _undo(self.folder)
        for lock in self._locks:
            lock.close()


def runs_folder() -> Path:
    """The folder of all runs; not the temporary one, which may be memory: nodes unpack images of gigabytes."""
    return cache_folder() / "runs"


def clean_up(root: Path) -> None:
    """Ends what runs left behind whose owner is gone; others, such as another worker's, stay untouched."""
    for folder in root.glob("*-*-*"):
        pid, started, _ = folder.name.split("-")
        if not Identity(int(pid), int(started)).runs():
            _undo(folder)


def _undo(folder: Path) -> None:
    journal = folder / JOURNAL
    lines = journal.read_text().splitlines() if journal.exists() else []
    for line in reversed(lines):
        try:
            entry = json.loads(line)
        except ValueError:
            # The crash came in the middle of the line: what it was about had not been done yet, or dies by itself.
            continue
        if "undo" in entry:
            subprocess.run(entry["undo"], check=False, capture_output=True)
        else:
            Identity(**entry).kill()
    shutil.rmtree(folder, ignore_errors=True)
