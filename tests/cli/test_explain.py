"""`finetune explain`: a field's type, default, values, description and what is below it."""

from __future__ import annotations

import pytest

from tests.cli.jobs import call


def _words(*arguments: str) -> str:
    result = call("explain", *arguments)
    assert (result.exit_code, result.stderr) == (0, "")
    return " ".join(result.stdout.split())


def test_a_field_shows_its_type_default_limits_and_description():
    assert _words("training.batchSize") == (
        "spec.training.batchSize integer "
        "Rows per optimizer step, over all GPUs. It must be a multiple of the number of GPUs. "
        "Default: 16 Limits: at least 1, at most 65536")


def test_the_path_may_begin_at_the_root_or_at_the_spec():
    assert _words("spec.training.batchSize") == _words("training.batchSize")
    assert _words("status.phase").startswith("status.phase string")


def test_a_choice_lists_its_values():
    assert "Default: none Values: none, int8, nf4" in _words("method.quantization")


def test_a_needed_field_says_so():
    assert "Needed: yes" in _words("model.source")
    assert "Needed" not in _words("model.revision")


def test_a_section_lists_the_fields_below_it():
    words = _words("method.lora")
    assert words.startswith("spec.method.lora object ")
    assert "Fields rank integer default 8 Rank of the two factors. alpha number default 32.0" in words


def test_without_a_field_the_whole_job_is_explained():
    words = _words()
    assert words.startswith("FineTuneJob object Fine-tunes a language model and publishes the adapter. Fields")
    assert "spec object needed What the user wants." in words


def test_brackets_in_a_description_are_shown_as_they_are():
    assert '(`[{"role": …, "content": …}, …]`,' in _words("dataset.messages")


@pytest.mark.parametrize(("field", "message"), [
    ("model.name", "no field spec.model.name; the fields there are: source, revision, tokenSecretRef"),
    ("nothing", "no field spec.nothing; the fields there are: model, dataset, output, method"),
    ("metadata.uid", "no field metadata.uid; the fields there are: name, namespace"),
])
def test_an_unknown_field_lists_the_known_and_exits_64(field, message):
    result = call("explain", field)
    assert (result.exit_code, result.stdout) == (64, "")
    assert result.stderr.startswith(message)


@pytest.mark.parametrize(("field", "path"), [
    ("reft", "spec.method.reft"), ("batchSize", "spec.training.batchSize"), ("spec.rank", "spec.method.lora.rank or"),
    ("REFT", "spec.method.reft"), ("learningrat", "spec.training.learningRate"), ("phase", "status.phase"),
])
def test_a_bare_or_misspelled_name_gets_its_full_path_or_paths(field, path):
    result = call("explain", field)
    assert (result.exit_code, result.stdout) == (64, "")
    assert result.stderr.startswith(f"no field spec.{field.removeprefix('spec.')}; did you mean {path}")


def test_every_place_of_a_name_is_suggested():
    said = call("explain", "rank").stderr
    assert "spec.method.lora.rank or spec.method.dora.rank or spec.method.reft.lora.rank" in said
