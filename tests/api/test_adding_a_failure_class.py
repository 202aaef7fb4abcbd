"""The recipe "adding a failure class" of CONTRIBUTING, done with an example in a copy of the repository."""

from __future__ import annotations

import pytest

from tests.repository_copy import REPOSITORY, copy_repository, insert_after, run_python

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
    root = copy_repository(tmp_path_factory.mktemp("repository"))
    insert_after(root / "crds/src/finetune_api/failures/failure_classes.py", "_OF_THE_TRAINER = (", ENTRY.rstrip("\n"))
    insert_after(root / "trainer/src/finetune_trainer/errors.py", '    """Another attempt may succeed."""\n',
            EXCEPTION.rstrip("\n"))
    run_python(root, "-m", "finetune_api.generate", ".")
    return root


@pytest.mark.parametrize(("file", "text"), [
    ("crds/src/finetune_api/generated/exit_codes.py", "NO_ACCELERATOR = 69"),
    ("crds/src/finetune_api/generated/reasons.py", 'NO_ACCELERATOR = "NoAccelerator"'),
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
assert errors.NoAccelerator("none").exit_code == 69
assert errors.failure_of(errors.NoAccelerator("none")).outcome == "NoAccelerator"
assert retry_after("NoAccelerator") is Retry.ELSEWHERE
""")
