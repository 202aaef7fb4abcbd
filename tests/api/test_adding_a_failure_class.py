"""The recipe "adding a failure class" of CONTRIBUTING, done with an example in a copy of the repository."""

from __future__ import annotations

import pytest

from tests.repository_copy import REPOSITORY, copy_repository, insert_after, run_python

ENTRY = '''
    FailureClass(
        reason="DiskFull", exit_code=74, retry=Retry.ELSEWHERE, delay=Delay.DOUBLING, avoids_node=True,
        alert=AlertGroup.PLATFORM,
        message="the trainer cannot write to its disk",
        cause="The disk of the node is full, and the trainer cannot write to it (EX_IOERR).",
        cure="An administrator looks at the disk of the node that `node` names."),
'''
EXCEPTION = '''
class DiskFull(RetryableError, outcome=Outcome.DISK_FULL):
    """The disk is full."""


'''


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the repository's files with a new failure class: two edits by hand, and `make generate`."""
    root = copy_repository(tmp_path_factory.mktemp("repository"))
    insert_after(root / "crds/src/finetune_api/failures/failure_classes.py", "_OF_THE_TRAINER = (", ENTRY.rstrip("\n"))
    insert_after(root / "trainer/src/finetune_trainer/errors.py", '    """Another attempt may succeed."""\n',
            EXCEPTION.rstrip("\n"))
    run_python(root, "-m", "finetune_api.generate", ".")
    return root


@pytest.mark.parametrize(("file", "text"), [
    ("crds/src/finetune_api/generated/exit_codes.py", "DISK_FULL = 74"),
    ("crds/src/finetune_api/generated/reasons.py", 'DISK_FULL = "DiskFull"'),
    ("docs/reference/conditions.md", "| `DiskFull` | 74 |"),
    ("docs/reference/output.md", "| 74 | `DiskFull` |"),
    ("docs/reference/alerts.md", "`DiskFull`"),
    ("charts/finetune-operator/files/alerts.yaml", "DiskFull|"),
])
def test_an_entry_reaches_enums_docs_and_alerts(copy, file, text):
    assert text in (copy / file).read_text(encoding="utf-8")
    assert text not in (REPOSITORY / file).read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_checks_of_the_repository_pass(copy):
    run_python(copy, "-m", "finetune_api.generate", "--check", ".")
    run_python(copy, "-m", "ruff", "check", "crds", "trainer/src/finetune_trainer/errors.py")
    run_python(copy, "-m", "mypy", "--follow-imports=silent", "crds/src/finetune_api/generated/reasons.py",
         "crds/src/finetune_api/generated/exit_codes.py", "crds/src/finetune_api/failures/failure_classes.py",
         "trainer/src/finetune_trainer/errors.py")


@pytest.mark.slow
def test_the_tests_of_reasons_errors_and_generated_files_pass(copy):
    shown = run_python(copy, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/operator/test_reasons.py",
                 "tests/trainer/test_errors.py", "tests/api/test_generated_files.py")
    assert " passed" in shown


def test_trainer_and_operator_follow_the_entry(copy):
    run_python(copy, "-c", """
import finetune_trainer.errors as errors
from finetune_operator.decide.attempts.verdict import retry_after
from finetune_api.failures import Retry
assert errors.DiskFull("none").exit_code == 74
assert errors.failure_of(errors.DiskFull("none")).outcome == "DiskFull"
assert retry_after("DiskFull") is Retry.ELSEWHERE
""")
