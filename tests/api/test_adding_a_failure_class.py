"""The recipe "adding a failure class" of CONTRIBUTING, done with an example in a copy of the repository."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PACKAGES = ("crds", "operator", "trainer", "cli")
ENTRY = '''
    FailureClass(
        reason="NoAccelerator", exit_code=69, retry=Retry.ELSEWHERE, delay=Delay.DOUBLING, avoids_node=True,
        alert=AlertGroup.PLATFORM,
        message="the trainer sees no accelerator",
        cause="The pod asked for an accelerator, and the trainer sees none (EX_UNAVAILABLE).",
        cure="An administrator looks at the driver of the node that `node` names."),
'''
EXCEPTION = '''
class NoAccelerator(RetryableError, outcome=Outcome.NO_ACCELERATOR):
    """The trainer sees no accelerator."""


'''


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the repository's files with a new failure class: two edits by hand, and `make generate`."""
    root = tmp_path_factory.mktemp("repository")
    for name in subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, check=True, capture_output=True, text=True
                               ).stdout.split("\0"):
        if name and (REPOSITORY / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, root / name)
    _insert(root / "crds/src/finetune_api/failures/failure_classes.py", "_OF_THE_TRAINER = (", ENTRY.rstrip("\n"))
    _insert(root / "trainer/src/finetune_trainer/errors.py", '    """Another attempt may succeed."""\n',
            EXCEPTION.rstrip("\n"))
    _run(root, "-m", "finetune_api.generate", ".")
    return root


def _insert(path: Path, after: str, text: str) -> None:
    content = path.read_text(encoding="utf-8")
    assert content.count(after) == 1, f"{path.name} has no {after!r}"
    path.write_text(content.replace(after, after + text), encoding="utf-8")


def _run(root: Path, *arguments: str) -> str:
    paths = os.pathsep.join(str(root / package / "src") for package in PACKAGES)
    done = subprocess.run([sys.executable, *arguments], cwd=root, capture_output=True, text=True, check=False,
                          env={**os.environ, "PYTHONPATH": paths, "MYPYPATH": paths})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(("file", "text"), [
    ("crds/src/finetune_api/exit_codes.py", "NO_ACCELERATOR = 69"),
    ("crds/src/finetune_api/reasons.py", 'NO_ACCELERATOR = "NoAccelerator"'),
    ("docs/reference/conditions.md", "| `NoAccelerator` | 69 |"),
    ("docs/reference/output.md", "| 69 | `NoAccelerator` |"),
    ("docs/reference/alerts.md", "`NoAccelerator`"),
    ("charts/finetune-operator/files/alerts.yaml", "NoAccelerator|"),
])
def test_an_entry_reaches_enums_docs_and_alerts(copy, file, text):
    assert text in (copy / file).read_text(encoding="utf-8")
    assert text not in (REPOSITORY / file).read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_checks_of_the_repository_pass(copy):
    _run(copy, "-m", "finetune_api.generate", "--check", ".")
    _run(copy, "-m", "ruff", "check", "crds", "trainer/src/finetune_trainer/errors.py")
    _run(copy, "-m", "mypy", "--follow-imports=silent", "crds/src/finetune_api/reasons.py",
         "crds/src/finetune_api/exit_codes.py", "crds/src/finetune_api/failures/failure_classes.py",
         "trainer/src/finetune_trainer/errors.py")


@pytest.mark.slow
def test_the_tests_of_reasons_errors_and_generated_files_pass(copy):
    shown = _run(copy, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/operator/test_reasons.py",
                 "tests/trainer/test_errors.py", "tests/api/test_generated_files.py")
    assert " passed" in shown


def test_trainer_and_operator_follow_the_entry(copy):
    _run(copy, "-c", """
import finetune_trainer.errors as errors
from finetune_operator.decide.attempts.verdict import retry_after
from finetune_api.failures import Retry
assert errors.NoAccelerator("none").exit_code == 69
assert errors.failure_of(errors.NoAccelerator("none")).outcome == "NoAccelerator"
assert retry_after("NoAccelerator") is Retry.ELSEWHERE
""")
