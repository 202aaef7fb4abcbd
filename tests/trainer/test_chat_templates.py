"""What is trained is what the row says, once, whatever a model's template does around it.

The templates here have the forms that model families publish; those of TRL are the published ones.
"""

from importlib.resources import files

import pytest
import torch
from finetune_api.spec.training import TrainingSpec
from finetune_trainer.data.chat.chat_format import ChatFormat
from finetune_trainer.data.chat.control_tokens import ControlTokens
from finetune_trainer.data.chat.message_checks import RowFault
from finetune_trainer.data.long_rows import fit
from finetune_trainer.data.rows import Example
from finetune_trainer.errors import BadConfig
from finetune_trainer.evaluation.constrained import SchemaGuide
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.models import CHATML, tiny_tokenizer

QUESTION = "What is 1+1, and why?"
THOUGHT = "<think>\nAdd one.\n</think>\n\nIt is 2."
SPECIAL = ("<s>", "</s>", "<|User|>", "<|Assistant|>", "<|start|>", "<|end|>", "<|message|>", "<|channel|>",
           "<|return|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", "<start_of_turn>", "<end_of_turn>")
QWEN3 = ("{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% set c = m.content %}"
         "{% set r = '' %}{% if '</think>' in c %}{% set r = c.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
         "{% set c = c.split('</think>')[-1].lstrip('\n') %}{% endif %}{% if loop.last %}<think>\n{{ r }}\n</think>\n\n"
         "{% endif %}{{ c }}{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
         "{% if add_generation_prompt %}<|im_start|>assistant\nTHINKS{% endif %}")
R1 = ("<s>{% for m in messages %}{% if m.role == 'user' %}<|User|>{{ m.content }}{% else %}<|Assistant|>"
      "{{ m.content.split('</think>')[-1] }}</s>{% endif %}{% endfor %}"
      "{% if add_generation_prompt %}<|Assistant|>THINKS{% endif %}")
GPT_OSS = ("{% for m in messages %}<|start|>{{ m.role }}{% if m.role == 'assistant' %}<|channel|>final{% endif %}"
           "<|message|>{{ m.content }}{% if loop.last and m.role == 'assistant' %}<|return|>"
           "{% else %}<|end|>{% endif %}{% endfor %}{% if add_generation_prompt %}<|start|>assistant{% endif %}")
LLAMA3 = ("{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>"
          "{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}")
GEMMA = ("<s>{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
         "{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
         "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}")
MISTRAL = ("<s>{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
           "{% else %} {{ m.content }}</s>{% endif %}{% endfor %}")
PHI4 = "{% for m in messages %}<|im_start|>{{ m.role }}<|im_sep|>{{ m.content }}<|im_end|>{% endfor %}" \
       "{% if add_generation_prompt %}<|im_start|>assistant<|im_sep|>{% endif %}"
HEADER_ALWAYS = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"


def _tokenizer(template):
    tokenizer = tiny_tokenizer(template)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>", "<|im_sep|>", *SPECIAL]})
    tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.bos_token = "<s>"
    return tokenizer


def _written(template, answer, question=QUESTION):
    tokenizer = _tokenizer(template)
    chat = ChatFormat(tokenizer, None)
    example = Example("train row 1", ({"role": "user", "content": question},), answer)
    written = chat.tokenize(example)
    # What is compared is what a perfect answer is, and generation begins where training does.
    assert chat.text(written.tokens.answer) == written.example.answer
    assert written.tokens.answer[-1] == chat.end_of_turn
    return tuple(tokenizer.decode(list(ids)) for ids in (written.tokens.prompt, written.tokens.answer))


@pytest.mark.parametrize(("template", "answer", "start", "trained"), [
    (QWEN3.replace("THINKS", ""), "two", "assistant\n<think>\n\n</think>\n\n", "two<|im_end|>"),
    (QWEN3.replace("THINKS", ""), THOUGHT, "assistant\n", f"{THOUGHT}<|im_end|>"),
    (QWEN3.replace("THINKS", ""), "Add.\n</think>\n\n2", "assistant\n<think>\n", "Add.\n</think>\n\n2<|im_end|>"),
    (QWEN3.replace("THINKS", "<think>\n"), "two", "assistant\n<think>\n\n</think>\n\n", "two<|im_end|>"),
    (QWEN3.replace("THINKS", "<think>\n"), THOUGHT, "assistant\n<think>\n", f"{THOUGHT[8:]}<|im_end|>"),
    (R1.replace("THINKS", ""), THOUGHT, "<|Assistant|>", f"{THOUGHT}</s>"),
    (R1.replace("THINKS", "<think>\n"), THOUGHT, "<|Assistant|><think>\n", f"{THOUGHT[8:]}</s>"),
    (R1.replace("THINKS", "<think>\n"), "two", "<|Assistant|><think>\n", "two</s>"),
    (GPT_OSS, "two", "<|start|>assistant<|channel|>final<|message|>", "two<|return|>"),
    (LLAMA3, "    return 2", "assistant<|end_header_id|>\n\n", "    return 2<|eot_id|>"),
    (GEMMA, "    return 2", "<start_of_turn>model\n", "    return 2<end_of_turn>"),
    (MISTRAL, "two", " [/INST]", " two</s>"),
    (PHI4, "two", "assistant<|im_sep|>", "two<|im_end|>"),
    (CHATML, THOUGHT, "assistant\n", f"{THOUGHT}<|im_end|>"),
    (HEADER_ALWAYS, "two", "<|im_start|>assistant\n", "two<|im_end|>"),
    (None, "two", f"{QUESTION}\n", "two<|end|>"),
], ids=["Qwen3", "Qwen3 with thought", "Qwen3 with half a thought", "Qwen3 thinking", "Qwen3 thinking with thought",
        "R1 with thought", "R1 that thinks", "R1 plain", "gpt-oss", "Llama 3", "Gemma", "Mistral", "Phi-4", "ChatML",
        "no generation prompt", "no template"])
def test_the_answer_is_what_stands_between_the_opening_of_the_template_and_its_end(template, answer, start, trained):
    prompt, written = _written(template, answer)
    assert prompt.endswith(start)
    assert written == trained
    assert (prompt + written).count(QUESTION) == (prompt + written).count(answer.splitlines()[-1]) == 1


PUBLISHED = sorted(file.name for file in files("trl").joinpath("chat_templates").iterdir()
                   if file.name.endswith(".jinja") and "_training" not in file.name)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_templates_train_question_and_answer_verbatim_and_once(name):
    template = files("trl").joinpath("chat_templates", name).read_text("utf-8")
    for answer in ("the number two", "    return 2", THOUGHT):
        prompt, trained = _written(template, answer)
        whole = prompt + trained
        assert whole.count(QUESTION) == 1
        assert whole.count(answer) == 1 or answer == THOUGHT
        assert whole.count("It is 2.") == (answer == THOUGHT)
        assert "Add one." not in prompt


@pytest.mark.parametrize(("template", "fault"), [
    (CHATML.replace("{{ m['content'] }}", "{{ m['content'] if m['role'] == 'assistant' }}"), "drops or changes"),
    (CHATML.replace("m['content'] }}", "m['content'] ~ (m['content'] if m['role'] == 'user' else '') }}"),
     "writes more than once the question"),
    (CHATML.replace("m['content'] }}", "m['content'][:9] if m['role'] == 'user' else m['content'] }}"),
     "drops or changes the question"),
    (CHATML.replace("m['content'] }}", "m['content'] | replace('1', 'one') }}"), "drops or changes the question"),
], ids=["drops", "doubles", "shortens", "rewrites"])
def test_a_template_that_does_not_write_the_question_as_it_is_is_a_fault_of_the_row(template, fault):
    with pytest.raises(RowFault, match=fault) as caught:
        _written(template, "two")
    assert QUESTION in str(caught.value)


@pytest.mark.parametrize(("content", "fault"), [
    ("{{ m['content'] if m['role'] != 'assistant' }}", "drops the assistant's message"),
    ("{{ m['content'] }}{{ m['content'] }}", "writes the assistant's message more than once"),
    ("{{ m['content'] | upper }}", "changes the assistant's message to other upper and lower case"),
    ("{{ m['content'] | replace('\u241f', '') }}", "rewrites the assistant's message"),
])
def test_a_template_that_does_not_write_the_answer_once_is_refused(content, fault):
    with pytest.raises(BadConfig, match=f"spec.model.source: the model's chat template {fault}"):
        ChatFormat(_tokenizer(CHATML.replace("{{ m['content'] }}", content)), None)


def test_random_choices_of_a_template_are_the_same_at_every_attempt():
    template = CHATML.replace("{{ m['content'] }}", "{{ m['content'] }}{{ range(100000) | random }}", 1)
    assert _written(template, "two") == _written(template, "two")


def test_a_conversation_that_the_template_refuses_is_a_fault_of_its_row():
    template = MISTRAL.replace("{% if m.role == 'user' %}", "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
                               "{{ raise_exception('roles must alternate') }}{% endif %}{% if m.role == 'user' %}")
    chat = ChatFormat(_tokenizer(template), None)
    twice = ({"role": "user", "content": "a"},) * 2
    with pytest.raises(RowFault, match=r"refuses this conversation: roles must alternate \(its roles are user, user\)"):
        chat.row(Example("train row 7", twice, "b"))


def test_control_tokens_in_data_are_text_and_told():
    tokenizer = _tokenizer(CHATML)
    chat = ChatFormat(tokenizer, "say <|im_end|>")
    question, answer = "How does <|im_start|> end? </s>", "With <|im_end|>."
    written = chat.tokenize(Example("train row 1", ({"role": "user", "content": question},), answer))
    prompt, trained = written.tokens.prompt, written.tokens.answer
    start, end = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    assert (prompt.count(start), prompt.count(end)) == (3, 2)
    assert (trained.count(end), trained[-1]) == (1, end)
    assert tokenizer.decode(list(prompt)) == (
        "<|im_start|>system\nsay <|im_end|><|im_end|>\n<|im_start|>user\nHow does <|im_start|> end? </s><|im_end|>\n"
        "<|im_start|>assistant\n")
    assert chat.text(trained) == written.example.answer == answer
    assert written.notes == ("<|im_end|> is trained as plain text, not as the model's control token",)


@pytest.mark.parametrize("splits", [True, False])
def test_the_characters_of_stand_ins_are_text_wherever_a_row_has_them(monkeypatch, splits):
    monkeypatch.setattr(ControlTokens, "is_text", lambda self, name: splits)
    chat = ChatFormat(_tokenizer(CHATML), None)
    stand_in = "\U000f00009999\U000f0001"
    row = Example("train row 1", ({"role": "user", "content": f"{stand_in} <|im_end|> {'b' * 300}"},), stand_in)
    assert chat.tokenize(row).example.answer == stand_in
    shorter, finding = fit(row, chat, TrainingSpec(max_length=200))
    assert len(shorter.tokens) <= 200, finding


def _with_prefix(template):
    """A tokenizer that puts a blank before a text, as those made by sentencepiece do, and a token for its beginning."""
    characters = sorted(set("▁abcdefghijklmnopqrstuvwxyz0123456789<>/|[]INST_?,.+={}\n\":W"))
    vocabulary = {token: number for number, token in enumerate(["<s>", "</s>", "<unk>", *characters, "▁t"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("▁", "t")], unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Split("\n", "isolated")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    from tokenizers.processors import TemplateProcessing

    tokenizer.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    fast.chat_template = template
    return fast


@pytest.mark.parametrize(("template", "first"), [(MISTRAL, "▁t"), (None, "t")])
def test_an_answer_begins_with_its_own_first_token_where_the_tokenizer_puts_something_before_a_text(template, first):
    tokenizer = _with_prefix(template)
    row = ChatFormat(tokenizer, None).row(Example("train row 1", ({"role": "user", "content": "what?"},), "two"))
    assert tokenizer.convert_ids_to_tokens(list(row.answer)) == [first, "w", "o", "</s>"]
    assert tokenizer.convert_ids_to_tokens(list(row.prompt)).count("<s>") == 1
    assert "</s>" not in tokenizer.convert_ids_to_tokens(list(row.prompt))


def test_calls_are_written_by_the_template_or_as_json_where_it_writes_none():
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Paris"}}}
    messages = ({"role": "user", "content": "weather?"}, {"role": "assistant", "content": "", "tool_calls": [call]},
                {"role": "tool", "content": "sunny"})
    as_json = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'
    tokenizer = _tokenizer(CHATML)
    chat = ChatFormat(tokenizer, None)
    prompt = tokenizer.decode(list(chat.row(Example("x", messages, "It is sunny.")).prompt))
    assert f"assistant\n{as_json}<|im_end|>\n<|im_start|>tool\nsunny<|im_end|>" in prompt
    written = chat.tokenize(Example("x", messages[:1], "", calls=[call]))
    assert written.example.answer == chat.text(written.tokens.answer) == as_json
    calls = CHATML.replace("{{ m['content'] }}", "{{ m['content'] }}{% for c in m.tool_calls or [] %}CALL "
                           "{{ c.function.name }} {{ c.function.arguments | tojson }}{% endfor %}")
    own = ChatFormat(_tokenizer(calls), None).tokenize(Example("x", messages[:1], "", calls=[call]))
    assert own.example.answer == 'CALL weather {"city": "Paris"}'
    assert tokenizer.decode(list(own.tokens.answer)) == 'CALL weather {"city": "Paris"}<|im_end|>'


def test_constrained_decoding_begins_where_the_trained_answer_does():
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    for template in (MISTRAL, QWEN3.replace("THINKS", "")):
        tokenizer = _tokenizer(template)
        chat = ChatFormat(tokenizer, None)
        row = chat.row(Example("train row 1", ({"role": "user", "content": QUESTION},), '{"a": 1}'))
        guide = SchemaGuide(tokenizer, schema, chat.end_of_turn, chat.form.lead)
        choice = guide.choice(1)
        for token in row.answer:
            wanted = torch.zeros(1, len(tokenizer))
            wanted[0, token] = 1.0
            assert choice.choose(wanted).tolist() == [token]
            choice.follow([token], None)
