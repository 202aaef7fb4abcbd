"""What is told of the rows and the model together, before any weights are read."""


from decimal import Decimal

import pytest
import torch
from finetune_api import parse_job, resolve_defaults
from finetune_api.messages import Accelerator, RunConfig
from finetune_trainer.data.rows import PreparedData, TokenRow
from finetune_trainer.errors import BadConfig
from finetune_trainer.model.files.find import ModelFiles
from finetune_trainer.run.checks.inputs import check_positions, load_tokenizer_and_chat_format, read_rows
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from tests.models import CHATML, tiny_job, tiny_tokenizer, write_rows


@pytest.mark.parametrize("config", [{"max_position_embeddings": 64}, {"text_config": {"n_positions": 64}}])
def test_rows_that_may_be_longer_than_the_models_positions_are_told(tmp_path, config):
    write_rows(tmp_path / "rows.jsonl", 10)
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    spec = resolve_defaults(parse_job(tiny_job(tmp_path)).spec)
    files = ModelFiles(tmp_path / "model", "")
    told = []
    run = RunConfig(namespace="n", name="tiny", uid="u", attempt=1, spec=spec, spec_hash="0" * 64,
                    accelerator=Accelerator(name="cpu", hourly_rate=Decimal(0)))
    data, _ = read_rows(run, config, load_tokenizer_and_chat_format(spec, files, None)[1], tmp_path, told.append)
    assert told[0] == ("warning: spec.training.maxLength: 128 is larger than the model's 64 positions "
                       "(max_position_embeddings). 10 rows are longer than that. Set maxLength: 64")
    assert str(data.findings[0]) in told[0]


def test_a_template_that_opens_answers_with_reasoning_is_told(tmp_path):
    write_rows(tmp_path / "rows.jsonl", 10)
    thinks = CHATML.replace("{{ m['content'] }}", "{% if m.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}"
                            "{{ m['content'] }}")
    tiny_tokenizer(thinks).save_pretrained(tmp_path / "model")
    spec = resolve_defaults(parse_job(tiny_job(tmp_path)).spec)
    files = ModelFiles(tmp_path / "model", "")
    run = RunConfig(namespace="n", name="tiny", uid="u", attempt=1, spec=spec, spec_hash="0" * 64,
                    accelerator=Accelerator(name="cpu", hourly_rate=Decimal(0)))
    data, _ = read_rows(run, {}, load_tokenizer_and_chat_format(spec, files, None)[1], tmp_path, lambda note: None)
    assert r"the chat template starts an answer with '<think>\n\n</think>\n\n'" in str(data.findings[0])


@pytest.mark.parametrize(("method", "words"), [
    ({}, "spec.training.maxLength: the longest row has 61 tokens; gpt2 has positions for 32. Set maxLength: 32"),
    ({"type": "Additive", "lora": None, "additive": {"technique": "PromptTuning",
                                                       "virtualTokens": 12}},
     "has positions for 20 after 12 virtual tokens. Set maxLength: 20"),
    ({"type": "Additive", "lora": None, "additive": {"technique": "PrefixTuning",
                                                       "virtualTokens": 30}},
     "spec.method.additive.virtualTokens is 30; gpt2 has 32 positions, and the longest row needs 61 of them"),
])
def test_rows_beyond_a_models_table_of_positions_are_refused(tmp_path, method, words):
    spec = resolve_defaults(parse_job(tiny_job(tmp_path, method=method)).spec)
    row = TokenRow((1,) * 60, (2,))
    data = PreparedData(train=(row,), train_answers=("a",), held_out=(), findings=(), counts={}, train_examples=())
    with torch.device("meta"):
        gpt2 = GPT2LMHeadModel(GPT2Config(n_positions=32, n_layer=1, n_head=1, n_embd=8, vocab_size=8))
        llama = LlamaForCausalLM(LlamaConfig(max_position_embeddings=32, num_hidden_layers=1, hidden_size=8,
                                             num_attention_heads=1, intermediate_size=8, vocab_size=8))
    with pytest.raises(BadConfig, match=words):
        check_positions(spec, gpt2, data, "gpt2")
    check_positions(spec, llama, data, "llama")
