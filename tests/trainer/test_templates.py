"""A job's templates are somebody else's code: they see the row's columns and nothing of Python."""

from __future__ import annotations

import json

import pytest
from finetune_api.spec.dataset import DatasetSpec
from finetune_trainer.data.rows import SourceRow
from finetune_trainer.data.templates import to_examples
from finetune_trainer.errors import BadConfig

ROWS = [SourceRow("rows.jsonl:1", {"q": "a question", "a": "an answer"})]


def spec(prompt):
    return DatasetSpec.model_validate_json(json.dumps(
        {"source": "s3://bucket/rows.jsonl", "prompt": prompt, "completion": "{{ a }}"}))


@pytest.mark.parametrize("prompt", [
    "{{ q.__class__.__mro__ }}",
    "{{ q.__class__.__base__.__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.popen(q).read() }}",
    "{{ self.__init__.__globals__ }}",
    "{{ lipsum.__globals__ }}",
    "{{ (q | attr('__class__')).__mro__ }}",
])
def test_a_template_that_reaches_for_python_fails_the_job_with_a_sentence(prompt):
    with pytest.raises(BadConfig, match=r"spec\.dataset\.prompt: a template may use the row's columns and nothing of"):
        to_examples(ROWS, spec(prompt))


@pytest.mark.parametrize("prompt", ["{% include q %}", "{% for n in range(10 ** 12) %}x{% endfor %}"])
def test_a_template_that_reads_files_or_never_ends_learns_nothing(prompt):
    try:
        examples, findings = to_examples(ROWS, spec(prompt))
    except BadConfig:
        return
    assert examples == []
    assert findings


def test_the_environments_secrets_are_no_variables(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary")
    with pytest.raises(BadConfig, match="no row has a column AWS_SECRET_ACCESS_KEY"):
        to_examples(ROWS, spec("{{ AWS_SECRET_ACCESS_KEY }}"))
