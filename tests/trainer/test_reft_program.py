"""Programs that a model wrote, well-meant and otherwise, each in a real sandbox."""

import socket
import time
from pathlib import Path

import psutil
import pytest
from finetune_trainer.rewards.program import run_program, run_programs, sandbox_fault, source_of


@pytest.mark.parametrize(("source", "answer"), [
    ("def solution():\n    apples = 5\n    return apples * 3", "15"),
    ("import math\ndef solution():\n    return math.sqrt(16)", "4.0"),
    ("from fractions import Fraction\ndef solution():\n    return Fraction(3, 4)", "0.75"),
    ("from datetime import date\ndef solution():\n    return (date(2024, 3, 1) - date(2024, 2, 1)).days", "29"),
    ("def solution():\n    return 1 if len('x') is 1 else 2", "1"),  # a warning must not look for the source's file
    ("def half(x):\n    return x / 2\ndef solution():\n    return half(9)", "4.5"),
    ("def solution():\n    print('thinking')\n    return 'B'", "B"),
    ("def solution():\n    return math.floor(2.7)", "2"),  # as in the paper's engine: math is there
    ("def solution():\n    return sum(sorted({3, 1, 2})[:2]) if all([1]) else 0", "3"),
])
def test_a_program_that_computes_gives_what_it_returns(source, answer):
    assert run_program(source, 2.0).answer == answer


SYMPY = """
import sympy as sp
from sympy import Eq, Symbol, solve
from sympy.solvers import nsolve

def solution():
    a, b, x = Symbol('a'), Symbol('b'), sp.symbols('x')
    assert solve([Eq(a + b, 10), Eq(a - b, 4)], [a, b])[a] == 7
    assert solve(2 * x - 7, x)[0] == sp.Rational(7, 2)
    assert sp.integrate(x**2, (x, 0, 3)) == 9 and sp.summation(x, (x, 1, 4)) == 10
    assert abs(nsolve(sp.cos(x) - x, 1) - 0.739) < 0.001
    return RETURNED
"""


@pytest.mark.parametrize(("returned", "answer"), [("sp.Rational(84, 2)", "42"), ("sp.sqrt(-1)", None)])
def test_a_program_may_use_sympy_as_in_the_papers_engine(returned, answer):
    ran = run_program(SYMPY.replace("RETURNED", returned), 5.0)
    assert ran.answer == answer, ran


def test_sympy_brings_a_program_nothing_of_the_machine(secret):
    source = ("import sympy\ndef solution():\n    import sys\n    os = sys.modules['os']\n"
              f"    return os.read(os.open('{secret}', 0), 99).decode()")
    ran = run_program(source, 5.0, language_checks=False)
    assert (ran.answer, ran.fault) == (None, f"FileNotFoundError: [Errno 2] No such file or directory: '{secret}'")


@pytest.mark.parametrize(("source", "fault"), [
    ("def solution(:", "SyntaxError: invalid syntax (<unknown>, line 1)"),
    ("def solution():\nreturn 1", "IndentationError: expected an indented block"),
    ("def solution():\n    return 'a", "SyntaxError: unterminated string literal"),
    ("def solution():\n    return x", "NameError: name 'x' is not defined"),
    ("def solution():\n    return 1 / 0", "ZeroDivisionError: division by zero"),
    ("import os", "ImportError: os"),
    ("def solution():\n    return __x", "SyntaxError: a name begins with an underscore"),
    ("def solution():\n    return solution()", "RecursionError"),
])
def test_a_program_that_fails_is_told_in_pythons_words(source, fault):
    assert run_program(source, 2.0).fault.startswith(fault)


@pytest.mark.parametrize("source", [
    "", "def solution(:", "x = 1", "def solution():\n    return None", "def solution():\n    return [1]",
    "def solution():\n    return 1 / 0", "def solution(x):\n    return x", "raise SystemExit(3)",
    "def solution():\n    return solution()", "def solution():\n    return 10 ** 10 ** 5", "(" * 20_000,
    "#" * 40_000, "\x00", "def solution():\n    return float('nan') if False else {}",
])
def test_a_program_without_an_answer_gives_none_and_a_reason(source):
    ran = run_program(source, 2.0)
    assert ran.answer is None
    assert ran.fault


def test_the_last_fenced_block_is_the_program():
    assert source_of("```\na\n```\nthen\n```python\nb\n```") == "b\n"
    assert source_of("```python\nno end") == "no end"
    assert source_of("plain") == "plain"


@pytest.fixture
def secret(tmp_path, monkeypatch):
    """A file and a variable that nobody may see."""
    path = tmp_path / "secret"
    path.write_text("hunter2")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    return path


ATTACKS = {
    "fork bomb": "import os\ndef solution():\n    while True: os.fork()",
    "a thread": "import _thread\ndef solution():\n    return _thread.start_new_thread(print, ())",
    "a subprocess": "import os\ndef solution():\n    return os.posix_spawn('/bin/true', ['true'], {})",
    "endless loop": "def solution():\n    while True: pass",
    "memory bomb": "def solution():\n    held = []\n    while True: held.append('x' * 10**7)",
    "one great list": "def solution():\n    return len([0] * 10**12)",
    "another's environment": "def solution():\n    return open('/proc/1/environ').read()",
    "a secret's file": "import os\ndef solution():\n    return os.read(os.open('{secret}', 0), 99).decode()",
    "a socket": "import sys\ndef solution():\n    c = sys.modules['ctypes'].CDLL(None)\n    return c.socket(2, 1, 0)",
    "writing a file": "import os\ndef solution():\n    return os.open('{secret}.new', os.O_WRONLY | os.O_CREAT)",
    "removing a file": "import os\ndef solution():\n    os.unlink('{secret}')\n    return 1",
    "infinite output": "import os\ndef solution():\n    while True: os.write(1, b'x' * 4096)",
    "other descriptors": "import os\ndef solution():\n    return sum(os.write(n, b'x') for n in range(2, 64))",
    "killing the parent": "import os\ndef solution():\n    os.kill(os.getppid(), 9)\n    return 1",
    "a pickle": "class Trap:\n    def __reduce__(self):\n        return print, ('owned',)\n"
                "def solution():\n    return Trap()",
    "a text that is more": "class Text(str):\n    def __len__(self): return 0\ndef solution():\n    return Text('1')",
    "os._exit": "import os\ndef solution():\n    os._exit(0)",
    "ctypes": "import sys\ndef solution():\n    return sys.modules['ctypes'].CDLL(None).system(b'id > /tmp/owned')",
    "memory that runs": "import sys\ndef solution():\n    c = sys.modules['ctypes'].CDLL(None)\n"
                        "    return c.mprotect(0x10000, 4096, 7)",
    "the classes of everything": "def solution():\n    return ().__class__.__base__.__subclasses__()",
    "importing again": "def solution():\n    return __import__('os').getppid()",
    "a traceback": "def solution():\n    try: 1 / 0\n    except Exception as e: return e.__traceback__.tb_frame",
}


@pytest.mark.parametrize("checks", [True, False], ids=["whole", "without the language's filter"])
@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_gets_no_answer_and_leaves_nothing(name, checks, secret):
    source = ATTACKS[name].replace("{secret}", str(secret))
    began = time.monotonic()
    ran = run_program(source, 1.0, language_checks=checks)
    assert time.monotonic() - began < 8
    assert ran.answer is None, ran
    assert "hunter2" not in (ran.fault or "")
    assert secret.read_text() == "hunter2"
    assert not secret.with_name("secret.new").exists()
    assert not Path("/tmp/owned").exists()


def test_the_environment_is_empty_and_the_arguments_hold_nothing():
    source = "import os, sys\ndef solution():\n    return repr((dict(os.environ), sys.argv[1:]))"
    ran = run_program(source, 2.0, language_checks=False)
    # Python itself sets LC_CTYPE where no locale is given.
    assert ran.answer == "({'LC_CTYPE': 'C.UTF-8'}, ['2.0', 'unchecked'])"


def test_a_call_into_the_network_is_ended_by_the_kernel():
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.2)
    with listener:
        port = listener.getsockname()[1]
        ran = run_program("import sys\ndef solution():\n    c = sys.modules['ctypes'].CDLL(None)\n"
                          f"    return c.socket(2, 1, 0) + {port}", 1.0, language_checks=False)
        assert "ended by signal 31" in ran.fault  # SIGSYS
        with pytest.raises(TimeoutError):
            listener.accept()


def test_a_timeout_ends_the_program_and_others_go_on():
    began = time.monotonic()
    ran = run_programs(["def solution():\n    while True: pass", "def solution():\n    return 7"] * 2, 1.0)
    assert [one.answer for one in ran] == [None, "7", None, "7"]
    assert time.monotonic() - began < 20


def test_no_child_is_left_behind():
    before = _children()
    run_programs(["def solution():\n    while True: pass"] * 2, 0.5)
    assert _children() <= before


def _children():
    """Also the dead ones that nobody has waited for."""
    return {(child.pid, child.create_time()) for child in psutil.Process().children()}


def test_this_machine_can_confine_programs():
    assert sandbox_fault() is None
