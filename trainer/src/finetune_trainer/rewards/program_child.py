"""The child process of `program.py`: confines itself, then runs the program that it reads from standard input.

Programs can use only the modules that are imported here, and SymPy if they name it: a confined process opens no file.
"""

from __future__ import annotations

import ast
import collections
import ctypes
import datetime
import decimal
import errno
import fractions
import functools
import itertools
import json
import math
import os
import platform
import re
import resource
import signal
import statistics
import string
import struct
import sys
import time
from types import CodeType
from typing import Any

_MODULES = {module.__name__: module for module in (
    collections, datetime, decimal, fractions, functools, itertools, math, re, statistics, string)}
_BUILTINS = (
    abs, all, any, bool, chr, dict, divmod, enumerate, filter, float, frozenset, int, isinstance, len, list, map, max,
    min, ord, pow, range, reversed, round, set, sorted, str, sum, tuple, zip, ArithmeticError, Exception, IndexError,
    KeyError, TypeError, ValueError, ZeroDivisionError)
_MEMORY = 512 * 1024**2

# System calls by architecture: its audit number, write, the two that map memory, those that open a file, and those
# allowed whatever they are given: read, close, fstat, lseek, munmap, brk, rt_sigaction, rt_sigprocmask, rt_sigreturn,
# mremap, madvise, sigaltstack, gettimeofday, futex, clock_gettime, exit, exit_group, getrandom. On x86_64 also the old
# time.
_CALLS = {
    "x86_64": (0xC000003E, 1, (9, 10), (2, 257),
               (0, 3, 5, 8, 11, 12, 13, 14, 15, 25, 28, 131, 96, 201, 202, 228, 60, 231, 318)),
    "aarch64": (0xC00000B7, 64, (222, 226), (56,),
                (63, 57, 80, 62, 215, 214, 134, 135, 139, 216, 233, 132, 169, 98, 113, 93, 94, 278)),
}
_NO_NEW_PRIVILEGES, _SET_SECCOMP, _FILTER_MODE, _DIE_WITH_PARENT, _NOT_DUMPABLE = 38, 22, 2, 1, 4
_ALLOW, _KILL, _NOT_THERE = 0x7FFF0000, 0x80000000, 0x00050000 | errno.ENOENT
_LOAD, _EQUAL, _BITS, _RETURN = 0x20, 0x15, 0x45, 0x06
_CALL_AT, _ARCHITECTURE_AT, _FIRST_AT, _THIRD_AT = 0, 4, 16, 32
_EXECUTABLE = 4


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def _filter(machine: str) -> bytes:
    """The seccomp filter in classic BPF. A system call that is not allowed kills the process; opening a file fails."""
    architecture, write, mapping, opening, allowed = _CALLS[machine]
    code = [(_LOAD, 0, 0, _ARCHITECTURE_AT), (_EQUAL, 1, 0, architecture), (_RETURN, 0, 0, _KILL),
            (_LOAD, 0, 0, _CALL_AT)]
    for call in allowed:
        code += [(_EQUAL, 0, 1, call), (_RETURN, 0, 0, _ALLOW)]
    # To show an error, Python tries to open the source file. This must fail without killing the process.
    for call in opening:
        code += [(_EQUAL, 0, 1, call), (_RETURN, 0, 0, _NOT_THERE)]
    # Writing to standard output only.
    code += [(_EQUAL, 0, 4, write), (_LOAD, 0, 0, _FIRST_AT), (_EQUAL, 0, 1, 1), (_RETURN, 0, 0, _ALLOW),
             (_RETURN, 0, 0, _KILL)]
    # Memory that is not executable.
    for call in mapping:
        code += [(_EQUAL, 0, 4, call), (_LOAD, 0, 0, _THIRD_AT), (_BITS, 1, 0, _EXECUTABLE), (_RETURN, 0, 0, _ALLOW),
                 (_RETURN, 0, 0, _KILL)]
    code.append((_RETURN, 0, 0, _KILL))
    return b"".join(struct.pack("HBBI", *line) for line in code)


def confine(cpu_seconds: float) -> None:
    """Give up all rights except computing.

    Raises:
        OSError: the kernel rejects the filter; then no program may run.
        KeyError: the system calls of this architecture are not known here.
    """
    whole = math.ceil(cpu_seconds + time.process_time())
    for limit, value in ((resource.RLIMIT_CPU, whole), (resource.RLIMIT_AS, _MEMORY), (resource.RLIMIT_FSIZE, 0),
                         (resource.RLIMIT_NPROC, 0), (resource.RLIMIT_NOFILE, 3), (resource.RLIMIT_CORE, 0)):
        resource.setrlimit(limit, (value, value))
    content = _filter(platform.machine())
    memory = ctypes.create_string_buffer(content, len(content))
    program = _Program(len(content) // 8, ctypes.addressof(memory))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_ulong]
    for option, first, second in ((_DIE_WITH_PARENT, signal.SIGKILL, None), (_NOT_DUMPABLE, 0, None),
                                  (_NO_NEW_PRIVILEGES, 1, None),
                                  (_SET_SECCOMP, _FILTER_MODE, ctypes.addressof(program))):
        if prctl(option, first, second, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl")


def _checked(source: str) -> CodeType:
    """The compiled program; SyntaxError if the language filter rejects it."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        names = [getattr(node, field, None) for field in ("attr", "id", "name")]
        if any(isinstance(name, str) and name.startswith("_") and name != "_" for name in names):
            raise SyntaxError("a name begins with an underscore")
    return compile(tree, "program", "exec")


def _import(name: str, _globals: Any = None, _locals: Any = None, names: Any = (), _level: int = 0) -> Any:
    if name in _MODULES:
        return _MODULES[name]
    top = name.partition(".")[0]
    if top in ("sympy", "mpmath") and name in sys.modules:
        return sys.modules[name if names else top]
    raise ImportError(name)


def _load_sympy(folder: str) -> None:
    """Import SymPy, and use it once, so that it imports its own modules now: later no file can be opened."""
    sys.path.append(folder)
    import sympy

    x, n = sympy.Symbol("x"), sympy.Symbol("n", integer=True)
    sympy.solve([x + n - 3, x - n - 1], [x, n])
    sympy.solve(sympy.Eq(x**2, 2), x)
    sympy.solveset(x**2 - 4, x, sympy.Reals)
    sympy.solve(x**2 > 4, x)
    sympy.nsolve(sympy.cos(x) - x, 1)
    sympy.simplify(sympy.sin(x) ** 2 + sympy.factor(x**2 - 1) + sympy.sqrt(8)).evalf()
    sympy.integrate(x * sympy.exp(x), (x, 0, 1))
    sympy.limit(sympy.sin(x) / x, x, 0)
    sympy.summation(n**2, (n, 1, x))
    sympy.Matrix([[1, 2], [3, 4]]).inv()
    sympy.binomial(sympy.factorial(4), sympy.gcd(12, sympy.lcm(4, 6))) + sympy.diff(x**3, x).subs(x, 2)


def _say(content: dict[str, Any]) -> None:
    os.write(1, json.dumps(content).encode())


def _answer(value: Any) -> str | None:
    if type(value).__module__.startswith("sympy.") and getattr(value, "is_real", False) is True:
        value = int(value) if value.is_integer else float(value)
    if type(value) in (decimal.Decimal, fractions.Fraction):
        value = float(value)
    return str(value)[:1000] if type(value) in (int, float, str, bool) else None


def main() -> None:
    """Confine this process, run the program, and write what its `solution()` returns."""
    source = sys.stdin.buffer.read().decode("utf-8", "replace")
    if len(sys.argv) > 2 and sys.argv[2] != "unchecked":
        _load_sympy(sys.argv[2])
    try:
        confine(float(sys.argv[1]))
    except (OSError, KeyError) as error:
        _say({"fault": f"no sandbox on this machine ({type(error).__name__}: {error})"})
        return
    # This byte says that the program starts. It is white space in JSON.
    os.write(1, b"\n")
    try:
        if "unchecked" in sys.argv:
            names: dict[str, Any] = {"__name__": "program"}
            code = compile(source, "program", "exec")
        else:
            allowed = {function.__name__: function for function in _BUILTINS}
            names = {"__builtins__": {**allowed, "__import__": _import, "print": lambda *_, **__: None}, "math": math}
            code = _checked(source)
        exec(code, names)
        _say({"answer": _answer(names["solution"]())})
    except BaseException as error:
        _say({"fault": f"{type(error).__name__}: {str(error)[:200]}"})


if __name__ == "__main__":
    main()
    os._exit(0)
