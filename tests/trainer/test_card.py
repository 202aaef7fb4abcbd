"""What is published loads and answers by its own words: the card's code, run as it stands, for every kind of base.

With a folder as its base every method is asked so in test_methods.py.
"""

import shutil
import signal
from importlib.resources import files

import pytest
from finetune_api import parse_job
from finetune_trainer.data.chat.chat_format import ChatFormat
from finetune_trainer.data.rows import EvaluationRow, Example
from finetune_trainer.report.code import find_prompt_code
from finetune_trainer.run.local import LocalOptions, run_job
from rich.console import Console

from tests.models import CHATML, NO_SYSTEM, save_tiny_gguf, save_tiny_model, tiny_job, tiny_tokenizer, write_rows
from tests.trainer.cards import assert_answered_as_scored, run_card
from tests.trainer.runs import DORA, MORE_METHODS, lora, manifest, published

FOLDERS = {"Full": "model", "Partial": "changed"}
SYSTEM = 'Say "level" and "custody".\nNothing else.'
METHODS = {"LoRA": lora(), "QLoRA": lora("nf4"), "LoRA int8": lora("int8"), "QDoRA": {**DORA, "quantization": "nf4"},
           **{name: MORE_METHODS[name] for name in ("Full", "last layer", "prompt tuning nf4", "bottleneck int8")}}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with rows, and the same model as a folder and as a GGUF file."""
    folder = tmp_path_factory.mktemp("card")
    save_tiny_model(folder / "model")
    save_tiny_gguf(folder / "tiny.gguf", folder / "model")
    write_rows(folder / "rows.jsonl", 12)
    return folder


def run_here(place, tmp_path, monkeypatch, **sections):
    """The tiny job in this process: what its card's code leaves behind, and the loss that was scored."""
    monkeypatch.setenv("FINETUNE_CACHE", str(place / "cache"))
    job = parse_job(tiny_job(place, output={"uri": f"file://{tmp_path}/out"}, training={"maxSteps": 1},
                             dataset={"system": SYSTEM}, **sections))
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert run_job(job, Console(quiet=True), LocalOptions(rerun=True)) == 0
    finally:
        signal.signal(signal.SIGTERM, before)
    folder = published(tmp_path) / FOLDERS.get(sections["method"]["type"], "adapter")
    assert manifest(tmp_path)["result"]["outcome"] == "Succeeded"
    return run_card(folder / "README.md", tmp_path / "elsewhere")


@pytest.mark.filterwarnings("ignore:Position ids are not supported")  # PEFT's, of prompt tuning
@pytest.mark.parametrize("name", METHODS)
def test_the_card_of_a_gguf_base_loads_and_answers_as_scored(place, tmp_path, monkeypatch, name):
    source = {"source": f"file://{place}/tiny.gguf"}
    assert_answered_as_scored(run_here(place, tmp_path, monkeypatch, model=source, method=METHODS[name]), SYSTEM)


@pytest.mark.parametrize("name", ["LoRA", "QLoRA"])
def test_the_card_of_a_base_on_the_hub_loads_and_answers_as_scored(place, tmp_path, monkeypatch, name):
    commit = "7ae557604adf67be50417f59c2c2f167def9a775"
    hub = tmp_path / "hub" / "models--own--tiny"
    shutil.copytree(place / "model", hub / "snapshots" / commit)
    (hub / "refs").mkdir()
    (hub / "refs" / "main").write_text(commit)
    for module in ("huggingface_hub.constants", "huggingface_hub._snapshot_download"):
        monkeypatch.setattr(f"{module}.HF_HUB_CACHE", str(tmp_path / "hub"), raising=False)
    names = run_here(place, tmp_path, monkeypatch, model={"source": "own/tiny"}, method=METHODS[name])
    assert names["revision"] == commit
    assert_answered_as_scored(names, SYSTEM)


@pytest.mark.parametrize(("template", "system", "plain"), [
    (CHATML, None, True), (CHATML, SYSTEM, True), (NO_SYSTEM, None, True), (NO_SYSTEM, SYSTEM, False),
    (None, None, True), (None, SYSTEM, False),
    (CHATML.replace("<|im_start|>assistant\n{% endif", "<|im_start|>assistant\n<think>\n\n</think>\n\n{% endif"), None,
     True),
], ids=["system role", "system prompt", "no system role", "system in the question", "no template", "system first",
        "opening"])
def test_a_question_is_put_as_the_run_put_it(template, system, plain):
    tokenizer = tiny_tokenizer(template)
    tokenizer.pad_token = tokenizer.eos_token
    assert asked_alike(tokenizer, system, "yes") is plain


PUBLISHED = sorted(file.name for file in files("trl").joinpath("chat_templates").iterdir()
                   if file.name.endswith(".jinja") and "_training" not in file.name)


@pytest.mark.parametrize("answer", ["two", "<think>\nAdd one.\n</think>\n\nIt is 2."], ids=["plain", "with a thought"])
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_question_is_put_as_the_run_put_it_whatever_a_published_template_opens_an_answer_with(name, answer):
    tokenizer = tiny_tokenizer(files("trl").joinpath("chat_templates", name).read_text("utf-8"))
    tokenizer.pad_token = tokenizer.bos_token = tokenizer.eos_token
    asked_alike(tokenizer, None, answer)


def asked_alike(tokenizer, system, answer):
    """Whether the card asks through the chat template; it asks as the run did in any case."""
    chat = ChatFormat(tokenizer, system)
    written = chat.tokenize(Example("row 1", ({"role": "user", "content": "a {question}\n  with 'quotes\""},), answer))
    found = find_prompt_code(tokenizer, chat, system, [EvaluationRow(written.example, written.tokens)], [0], 8)
    names = {"tokenizer": tokenizer, "question": written.example.question}
    exec("\n".join(found.lines), names)
    ids = tokenizer(names["prompt"], add_special_tokens=found.adds_special_tokens)["input_ids"]
    assert tuple(ids) == written.tokens.prompt
    return not any("chat template of the model wrote in training" in line for line in found.lines)
