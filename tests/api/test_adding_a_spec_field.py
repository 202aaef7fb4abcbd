"""The recipe "add a spec field" of CONTRIBUTING, done with an example in a copy of the repository."""

from __future__ import annotations

import pytest

from tests.repository_copy import REPOSITORY, copy_repository, insert_after, run_python

MODEL = "crds/src/finetune_api/spec/dataset.py"
FIELD = '''
    shortest_answer: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Fewest characters of an answer. Rows with a shorter one are rejected. Default: without limit."""
'''
USE_FILE = "trainer/src/finetune_trainer/data/examples.py"
USE = '''
        findings += [Finding(Severity.ERROR, one.location, f"the answer has {len(one.answer)} characters; "
                             f"spec.dataset.shortestAnswer is {shortest}. Lower it, or correct the row")
                     for one in examples if (shortest := spec.dataset.shortest_answer) and len(one.answer) < shortest]
'''
TABLE = "tests/api/test_resolve.py"
PROGRAM = """
import json
from finetune_api import FineTuneJobSpec, resolve_defaults, spec_hash
from finetune_api.rules import SMALLEST_SPEC, merge_patch
from finetune_trainer.data.examples import check_examples
from finetune_trainer.data.rows import SourceRow

def spec(**dataset):
    patch = {"dataset": {"prompt": "{{ q }}", "completion": "{{ a }}", "evaluationFraction": 0.5, **dataset}}
    return resolve_defaults(FineTuneJobSpec.model_validate_json(json.dumps(merge_patch(SMALLEST_SPEC, patch))))

rows = [SourceRow(f"train row {number}", {"q": str(number), "a": "yes"}) for number in range(4)]
assert spec(shortestAnswer=4).dataset.shortest_answer == 4
assert spec_hash(spec(shortestAnswer=4)) != spec_hash(spec())
assert not check_examples(rows, None, spec()).findings
assert not check_examples(rows, None, spec(shortestAnswer=3)).findings
assert len(check_examples(rows, None, spec(shortestAnswer=4)).findings) == 4
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the repository with a new field: the model, one use, a line in a test, and `make generate`."""
    root = copy_repository(tmp_path_factory.mktemp("repository"))
    insert_after(root / MODEL, '    """Train on at most this many rows, the first ones. Default: all rows."""\n', FIELD)
    insert_after(root / USE_FILE, "        findings += answer_findings(examples, spec.dataset.answer_format)\n",
                 USE.removeprefix("\n"))
    insert_after(root / TABLE, '    "dataset.maxSamples": 10,\n', '    "dataset.shortestAnswer": 4,\n')
    run_python(root, "-m", "finetune_api.generate", ".")
    return root


@pytest.mark.parametrize("file", [
    "crds/finetune.dev_finetunejobs.yaml", "crds/finetunejob.schema.json", "crds/finetuneexperiment.schema.json",
    "docs/reference/api.md",
])
def test_the_model_reaches_crd_schema_and_docs(copy, file):
    assert "shortestAnswer" in (copy / file).read_text(encoding="utf-8")
    assert "shortestAnswer" not in (REPOSITORY / file).read_text(encoding="utf-8")


def test_the_field_is_read_and_used_and_decides_the_result(copy):
    run_python(copy, "-c", PROGRAM)


def test_the_field_is_explained(copy):
    shown = run_python(copy, "-c",
                       "from finetune_cli.main import finetune; finetune(['explain', 'dataset.shortestAnswer'])")
    assert "Fewest characters of an answer." in shown
    assert "at least 1" in shown


@pytest.mark.slow
def test_the_checks_of_the_repository_pass(copy):
    run_python(copy, "-m", "finetune_api.generate", "--check", ".")
    run_python(copy, "-m", "ruff", "check", MODEL, USE_FILE, TABLE)
    run_python(copy, "-m", "mypy", "--follow-imports=silent", MODEL, USE_FILE)


@pytest.mark.slow
def test_the_tests_of_specs_and_generated_files_pass(copy):
    shown = run_python(copy, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/api/test_resolve.py",
                       "tests/api/test_generated_files.py", "tests/api/test_recorded.py")
    assert " passed" in shown
