"""Runs a program that a model wrote, in a separate process that can only compute.

The child (`program_child.py`) is a fresh interpreter (`python -I -S`) without environment, site packages or
inherited files, in a session of its own. Before it looks at the program it limits its CPU time, memory, file size and
number of processes, and installs a seccomp filter with a short list of system calls that still work: memory, clocks,
and writing to its one pipe. No file can be opened: none is there. Everything else (a socket, a process, a signal to
another) ends it on the spot, as does the parent at the timeout, with all its children. The result is bytes of JSON of
bounded length; nothing is unpickled. The right answer is never in the child. For a program that names SymPy the child
imports it before the filter is there; the program's time counts from then.

The guard is that filter of the kernel's, with those limits. The child also filters the language (no names with a
leading underscore, few built-in functions, few modules): that is a convenience, which tells honest programs early
what they can't have; whoever means harm gets around it, and nothing here relies on it.

What this does not stop: using the CPU until the timeout, or a fault of the kernel's within the few calls that are left.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from finetune_api.estimate import programs_at_once

from finetune_trainer.hardware.host import memory_bytes, processors, resident_bytes

_CHILD = Path(__file__).with_name("program_child.py")
_FENCE = re.compile(r"```[A-Za-z0-9]*\n(.*?)(?:```|\Z)", re.DOTALL)
_MOST_SOURCE = 32 * 1024
_MOST_OUTPUT = 16 * 1024
_START_SECONDS = 10.0
_SYMPY_SECONDS = 60.0
_SYMPY = re.compile(r"\bsympy\b")
_RESERVE = 1024**3
"""Bytes of memory reserved for the growth of a trainer while programs run."""


@dataclass(frozen=True)
class Ran:
    """How a program ended.

    Attributes:
        answer: the returned value as text; None if the program returned neither a number nor a text.
        fault: why there is no answer, in words.
    """

    answer: str | None
    fault: str | None = None


def source_of(text: str) -> str:
    """The program in a response: its last fenced block, or all of it."""
    blocks = _FENCE.findall(text)
    return blocks[-1] if blocks else text


def run_programs(sources: Sequence[str], timeout: float, at_once: int | None = None) -> list[Ran]:
    """Run programs with `run_program`, as many at once as this process has processors and memory for."""
    with ThreadPoolExecutor(at_once or _at_once(os.environ)) as pool:
        return list(pool.map(lambda source: run_program(source, timeout), sources))


def _at_once(environment: Mapping[str, str]) -> int:
    """How many programs may run at once. The trainers of a pod share its processors and memory equally."""
    trainers = int(environment.get("LOCAL_WORLD_SIZE", "1"))
    return programs_at_once(processors(environment) // trainers, memory_bytes() // trainers,
                            resident_bytes() + _RESERVE)


def run_program(source: str, timeout: float, language_checks: bool = True) -> Ran:
    """What the program's function `solution()` returns.

    Args:
        source: Python.
        timeout: maximum seconds, both of CPU time and of wall time.
        language_checks: False turns the language filter off, to test the sandbox alone.
    """
    encoded = source.encode("utf-8", "replace")
    if len(encoded) > _MOST_SOURCE:
        return Ran(None, "the program is too long")
    sympy = find_spec("sympy") if _SYMPY.search(source) else None
    libraries = [str(Path(sympy.origin).parents[1])] if sympy and sympy.origin else []
    arguments = [str(timeout), *libraries, *([] if language_checks else ["unchecked"])]
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-B", "-W", "ignore", str(_CHILD), *arguments], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={}, cwd="/", start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        # The source is smaller than the buffer of a pipe, so this cannot block. A dead child is noticed below.
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(encoded)
            process.stdin.close()
        output, fault = _read(process.stdout.fileno(), timeout, _SYMPY_SECONDS if libraries else _START_SECONDS)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.stdout.close()
        process.wait()
    return Ran(None, fault) if fault else _result(output, process.returncode)


def sandbox_fault() -> str | None:
    """Why programs cannot run on this machine, or None if they can."""
    ran = run_program("def solution():\n    return 6 * 7\n", timeout=_START_SECONDS)
    return None if ran.answer == "42" else ran.fault or "a program that returns 42 returned something else"


def _read(pipe: int, timeout: float, start: float) -> tuple[bytes, str | None]:
    """The output of the child, or why it was ended. The child writes one byte when the program starts."""
    output = b""
    deadline = time.monotonic() + start + timeout
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while True:
            left = deadline - time.monotonic()
            if left <= 0 or not selector.select(left):
                return output, f"the program took more than {timeout:g} s"
            part = os.read(pipe, 4096)
            if not part:
                return output, None
            if not output:
                deadline = time.monotonic() + timeout
            output += part
            if len(output) > _MOST_OUTPUT:
                return output, "the program wrote too much"


def _result(output: bytes, code: int) -> Ran:
    try:
        content = json.loads(output.decode("utf-8"))
        answer, fault = content.get("answer"), content.get("fault")
    except (ValueError, AttributeError, RecursionError):
        ended = f"was ended by signal {-code}" if code < 0 else "ended without an answer"
        return Ran(None, f"the program {ended}")
    if isinstance(answer, str):
        return Ran(answer)
    return Ran(None, fault if isinstance(fault, str) else "the program returned no number and no text")
