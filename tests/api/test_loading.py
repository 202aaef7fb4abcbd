"""Reading a job from YAML: every error at once, each with its place, its value and what to write instead."""

from __future__ import annotations

import pytest
from finetune_api import FineTuneJob, InvalidJob, load_job, parse_job, parse_job_text
from finetune_api.explain.fields import document_field

from tests.api.jobs import TEXT, document, errors_of


def _refusal(text: str) -> list[str]:
    with pytest.raises(InvalidJob) as refusal:
        parse_job_text(text)
    return [str(error) for error in refusal.value.errors]


def test_the_smallest_job_is_a_model_a_dataset_and_an_output():
    job = parse_job_text(TEXT)
    assert job.metadata.name == "smallest"
    assert str(job.spec.model.source) == "owner/name"


def test_every_error_is_reported_at_once_with_path_value_line_and_advice():
    text = TEXT + """\
  method:
    type: LORA
    lora:
      rank: 0
  training:
    bachSize: 8
    epochs: three
    maxSteps: 1.5
    packing: "yes"
    learningRate: -1
  evaluation:
    metrics: loss
  budget:
    maxCost: 1.5
"""
    assert _refusal(text) == [
        'line 15: spec.method.type is "LORA": write LoRA, DoRA, ReFT, Partial, Additive or Full: did you mean LoRA?',
        "line 17: spec.method.lora.rank is 0: write a number of at least 1",
        "line 19: spec.training.bachSize: unknown field: did you mean batchSize?",
        'line 20: spec.training.epochs is "three": write a number, without quotes',
        "line 21: spec.training.maxSteps is 1.5: write a whole number, without quotes",
        'line 22: spec.training.packing is "yes": write true or false',
        "line 23: spec.training.learningRate is -1: write a number above 0",
        'line 25: spec.evaluation.metrics is "loss": write a list ([a, b], or one item per line after a dash)',
        'line 27: spec.budget.maxCost is 1.5: write the amount in quotes: "1.5"',
    ]


def test_the_text_of_a_refusal_names_the_file_and_counts_the_errors(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(TEXT + "  training: {seed: -1, warmup: 2}\n")
    with pytest.raises(InvalidJob) as refusal:
        load_job(path)
    assert str(refusal.value).splitlines() == [
        f"{path}: 2 errors",
        "  line 14: spec.training.warmup is 2: write a number below 1",
        "  line 14: spec.training.seed is -1: write a number of at least 0",
    ]


def test_a_missing_field_is_explained():
    data = document()
    del data["spec"]["output"], data["spec"]["model"]["source"], data["metadata"]["name"]
    assert [str(error) for error in errors_of(data)] == [
        "metadata.name: missing: Name of the job: at most 40 lower-case letters, digits and dashes, a letter first.",
        f"spec.model.source: missing: {document_field(FineTuneJob, 'spec.model.source').description}",
        "spec.output: missing: Where the result is published.",
    ]


def test_a_missing_version_and_kind_are_shown_to_copy():
    data = document()
    del data["apiVersion"], data["kind"]
    assert [str(error) for error in errors_of(data)] == [
        "apiVersion: missing: write finetune.dev/v1alpha1", "kind: missing: write FineTuneJob"]


def test_an_unknown_field_without_a_likeness_lists_what_there_is():
    (error,) = errors_of(document(model={"zzz": 1}))
    assert error.message == "unknown field: write one of source, revision, tokenSecretRef"


def test_the_names_of_python_are_no_names_of_the_api():
    (error,) = errors_of(document(training={"batch_size": 8}))
    assert error.message == "unknown field: did you mean batchSize?"
    errors = errors_of(document(training={"max_steps": 8, "epochs": 1}))
    assert [error.path for error in errors] == ["spec.training.max_steps"]


@pytest.mark.parametrize("name", ["Big", "1job", "a_b", "a" * 41, "ends-", ""])
def test_a_name_that_no_child_could_carry_is_refused(name):
    data = document()
    data["metadata"]["name"] = name
    assert [error.path for error in errors_of(data)] == ["metadata.name"]


def test_what_kubectl_shows_of_a_stored_job_can_be_read_again():
    data = document()
    data["metadata"] |= {"uid": "1-2", "creationTimestamp": "2025-01-01T00:00:00Z", "labels": {"team": "a"}}
    data["status"] = {"phase": "Running", "startTime": "2025-01-01T00:00:00Z", "fieldOfTheFuture": 1}
    assert parse_job(data).status.phase == "Running"


def test_a_key_written_twice_is_refused_at_its_line():
    assert _refusal(TEXT + "  training:\n    seed: 1\n    seed: 2\n") == [
        "line 16: not valid YAML: the key 'seed' stands twice"]


def test_broken_yaml_is_refused_at_its_line():
    (message,) = _refusal(TEXT + "  training: [1, 2\n  budget: {}\n")
    assert message.startswith("line 15: not valid YAML: ")


@pytest.mark.parametrize(("broken", "words"), [
    ("  dataset:\n    prompt: x\n   completion: y\n", "line 6: not valid YAML: completion is indented by 3 spaces, "
     "which no line above it is; indent it by 2 spaces, like dataset in line 4"),
    ("  training:\n    seed: 1\n   budget: {}\n", "indent it by 2 spaces, like training in line 4"),
    ("  training:\n    seed: 1\n budget: {}\n", "budget is indented by 1 space, which no line above it is"),
    ("  training:\n\tseed: 1\n", "line 5: not valid YAML: the line is indented with a tab; indent it with spaces"),
    ("  evaluation:\n    metrics:\n      - loss\n    - accuracy\n", "line 7: not valid YAML: the item is indented by 4 "
     "spaces; all items of a list have the same indentation, 6 spaces, like line 6"),
    ("  model: a\n    source: b\n", "source is indented below model in line 4, which has a value on its own line"),
    ("  dataset:\n    system: Note: be short\n", "the value of system has a colon: put it in quotes, system: 'Note: be "
     "short'"),
])
def test_a_wrong_indentation_is_explained_with_its_line_and_the_right_one(broken, words):
    (message,) = _refusal("apiVersion: finetune.dev/v1alpha1\nkind: FineTuneJob\nspec:\n" + broken)
    assert words in message


@pytest.mark.parametrize(("changes", "words"), [
    ({"model": {"dataset": {}}}, "spec.model.dataset: unknown field: it belongs at spec.dataset: indent it below spec"),
    ({"training": {"maxCost": "5"}}, "unknown field: it belongs at spec.budget.maxCost: indent it below budget"),
    ({"training": {"rank": 8}}, "unknown field: it belongs at spec.method.lora.rank or spec.method.dora.rank"),
    ({"training": {"zzz": 8}}, "unknown field: write one of epochs, maxSteps"),
])
def test_a_field_in_the_wrong_place_is_told_where_it_belongs(changes, words):
    assert any(words in str(error) for error in errors_of(document(**changes)))


@pytest.mark.parametrize(("method", "words"), [
    ({"type": "QLoRA"}, 'spec.method.type is "QLoRA": write type: LoRA with quantization: nf4, which is QLoRA'),
    ({"type": "qdora"}, "write type: DoRA with quantization: nf4, which is QDoRA"),
    ({"quantization": "4bit"}, 'spec.method.quantization is "4bit": write none, int8 or nf4: did you mean nf4?'),
])
def test_a_common_name_that_the_api_writes_otherwise_is_told_as_the_api_writes_it(method, words):
    (error,) = errors_of(document(method=method))
    assert words in str(error)


def test_of_several_documents_the_one_job_is_read():
    other = "apiVersion: v1\nkind: Secret\nmetadata: {name: s3}\n"
    assert parse_job_text(f"{other}---\n{TEXT}---\n{other}---\n").metadata.name == "smallest"
    assert _refusal(f"{TEXT}---\n{TEXT}") == ["2 documents of kind FineTuneJob: write exactly one"]
    assert _refusal(f"{other}---\n{other}") == ["0 documents of kind FineTuneJob: write exactly one"]


def test_the_lines_of_a_second_document_count_from_the_start_of_the_file():
    (message,) = _refusal(f"kind: Secret\n---\n{TEXT}  budget: {{maxCost: -1}}\n")
    assert message.startswith("line 16: spec.budget.maxCost")


def test_a_document_of_another_kind_alone_is_refused_as_such():
    assert 'kind is "Job": write FineTuneJob' in " ".join(_refusal(TEXT.replace("FineTuneJob", "Job")))


@pytest.mark.parametrize("text", ["", "---\n", "# nothing\n", "---\n---\n", "null\n"])
def test_an_empty_file_is_refused(text):
    assert _refusal(text) == ["0 documents of kind FineTuneJob: write exactly one"]


@pytest.mark.parametrize("text", ["just words\n", "- a\n- b\n", "5\n"])
def test_what_is_no_mapping_is_refused(text):
    (message,) = _refusal(text)
    assert message.startswith("write a mapping with apiVersion, kind: FineTuneJob, metadata and spec (found ")


def test_a_file_that_is_not_utf_8_is_refused(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_bytes(TEXT.encode() + "  # é\n".encode("latin-1"))
    with pytest.raises(InvalidJob, match=f"not UTF-8 at byte {len(TEXT) + 4}: save the file as UTF-8"):
        load_job(path)


def test_a_byte_order_mark_does_no_harm(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(TEXT, encoding="utf-8-sig")
    assert load_job(path).metadata.name == "smallest"


def test_a_missing_file_stays_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_job(tmp_path / "nothing.yaml")


def test_a_date_stays_text():
    text = TEXT.replace("owner/name", "owner/name\n    revision: 2024-05-01")
    assert parse_job_text(text).spec.model.revision == "2024-05-01"


@pytest.mark.parametrize(("written", "number"), [
    ("1e-4", 1e-4), ("2E-5", 2e-5), ("1.5e-3", 1.5e-3), (".5e-3", 5e-4), ("1.e-2", 1e-2), ("0.01", 0.01),
])
def test_a_number_with_an_exponent_is_a_number(written, number):
    assert parse_job_text(TEXT + f"  training: {{learningRate: {written}}}\n").spec.training.learning_rate == number


@pytest.mark.parametrize("number", [".inf", "-.inf", ".nan"])
def test_a_number_that_json_cannot_write_is_refused(number):
    (message,) = _refusal(TEXT + f"  training: {{maxGradNorm: {number}}}\n")
    assert message.startswith("line 14: spec.training.maxGradNorm is ") and message.endswith("a finite number")


def test_anchors_and_merge_keys_work():
    job = parse_job_text(TEXT + "  training: &t {seed: 7}\n  compute:\n    <<: {nodes: 2}\n    spot: true\n")
    assert (job.spec.compute.nodes, job.spec.compute.spot) == (2, True)


@pytest.mark.parametrize(("line", "field"), [
    ("  dataset: {source: s3://b/r.jsonl, prompt: {{ q }}, completion: {{ a }}}\n", "prompt"),
    ("  dataset:\n    prompt: 'x'\n    completion: {{ a }}\n", "completion"),
    ("  dataset:\n    prompt: Question: {{ q }}\n", "prompt"),
    ("  dataset:\n    system: {% if q %}x{% endif %}\n", "system"),
    ('  dataset:\n    prompt: "{{ row["Question Text"] }}"\n', "prompt"),
], ids=["flow", "block", "text before", "statement", "double quotes in double quotes"])
def test_a_template_without_its_quotes_is_told_to_have_some(line, field):
    with pytest.raises(InvalidJob, match=rf"not valid YAML: .*; quote it: {field}: '\{{\{{ … \}}\}}'"):
        parse_job_text("apiVersion: finetune.dev/v1alpha1\nkind: FineTuneJob\nspec:\n" + line)


@pytest.mark.parametrize(("added", "message"), [
    ("  training: {maxSteps: " + "9" * 5000 + "}\n", "a value can't be read"),
    ("  training: !!int abc\n", "a value can't be read"),
    ("  training: !!timestamp abc\n", "a value can't be read"),
    ("  training: !!python/object:os.system x\n", "could not determine a constructor for the tag"),
    ("  ? [a, b]\n  : 1\n", "found unhashable key"),
    ("  training: &a [*a]\n", "line 14: not valid YAML: an alias stands inside of its own anchor"),
    ("  training: " + "[" * 3000 + "]" * 3000 + "\n", "nested too deeply"),
    ("  engine: \0\n", "line 14: not valid YAML: it has the character U+0000, which YAML does not allow; remove it"),
    ('  engine: "\\ud800"\n', "text that is not valid Unicode"),
    ("  training: !!set {a}\n", "a value that JSON cannot hold"),
], ids=lambda text: text[:40])
def test_hostile_yaml_is_refused_with_a_sentence(added, message):
    messages = _refusal(TEXT + added)
    assert message in messages[0]
    "\n".join(messages).encode("utf-8")


def test_aliases_that_blow_up_are_refused_before_they_do():
    layers = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    layers += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 30)]
    assert _refusal("\n".join(layers)) == [
        "line 1: not valid YAML: larger than a job can be, with its aliases written out"]


def test_a_long_value_is_shown_shortened():
    (error,) = errors_of(document(model={"source": "x" * 500}))
    assert len(error.value) == 80
    assert error.value.endswith("…")


def test_a_password_in_an_address_is_refused_and_not_shown():
    (error,) = errors_of(document(output={"uri": "s3://bucket/runs", "s3": {"endpointUrl": "http://me:word@host:9"}}))
    assert error.path == "spec.output.s3.endpointUrl"
    assert error.value == '"http://…@host:9"'
