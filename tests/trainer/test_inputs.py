"""What is told of the rows and the model together, before any weights are read."""

import json

import pytest
from finetune_api import parse_job, resolve_defaults
from finetune_api.messages import Accelerator, RunConfig
from finetune_trainer.inputs import open_chat, read_rows
from finetune_trainer.model.files import ModelFiles

from tests.models import CHATML, tiny_job, tiny_tokenizer, write_rows


@pytest.mark.parametrize("config", [{"max_position_embeddings": 64}, {"text_config": {"n_positions": 64}}])
def test_rows_that_may_be_longer_than_the_models_positions_are_told(tmp_path, config):
    write_rows(tmp_path / "rows.jsonl", 10)
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    spec = resolve_defaults(parse_job(tiny_job(tmp_path)).spec)
    files = ModelFiles(tmp_path / "model", "")
    told = []
    run = RunConfig(namespace="n", name="tiny", uid="u", attempt=1, spec=spec, spec_hash="0" * 64,
                    accelerator=Accelerator(name="cpu", hourly_rate=0))
    data, _ = read_rows(run, files, open_chat(spec, files, None)[1], tmp_path, told.append)
    assert told[0] == ("warning: spec.training.maxLength: 128 is more than the model's 64 positions "
                       "(max_position_embeddings), which 10 rows exceed; write maxLength: 64")
    assert str(data.findings[0]) in told[0]


def test_a_template_that_opens_answers_with_reasoning_is_told(tmp_path):
    write_rows(tmp_path / "rows.jsonl", 10)
    thinks = CHATML.replace("{{ m['content'] }}", "{% if m.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}"
                            "{{ m['content'] }}")
    tiny_tokenizer(thinks).save_pretrained(tmp_path / "model")
    spec = resolve_defaults(parse_job(tiny_job(tmp_path)).spec)
    files = ModelFiles(tmp_path / "model", "")
    run = RunConfig(namespace="n", name="tiny", uid="u", attempt=1, spec=spec, spec_hash="0" * 64,
                    accelerator=Accelerator(name="cpu", hourly_rate=0))
    data, _ = read_rows(run, files, open_chat(spec, files, None)[1], tmp_path, lambda note: None)
    assert r"the chat template opens an answer with '<think>\n\n</think>\n\n'" in str(data.findings[0])
