"""Models of other families than Llama: the same training, packed or not, and the same answers."""

import json
import signal

import pytest
from finetune_api import parse_job, resolve_defaults
from finetune_api.spec.method import Quantization
from finetune_api.spec.training import Precision
from finetune_trainer.data.chat import ChatFormat
from finetune_trainer.data.prepare import prepare
from finetune_trainer.data.steps import step_rows
from finetune_trainer.evaluation.loss import answer_loss
from finetune_trainer.local import run_job
from finetune_trainer.model.device import choose_device
from finetune_trainer.model.files import ModelFiles
from finetune_trainer.model.load import load_model, load_tokenizer
from rich.console import Console
from safetensors.torch import load_file

from tests.models import save_tiny_family, tiny_job, write_rows
from tests.trainer.runs import published

EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2, "router_aux_loss_coef": 0.5, "output_router_logits": True}


def run_here(folder, **sections):
    """The tiny job in this process: the metrics of each step."""
    job = parse_job(tiny_job(folder, **sections))
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert run_job(job, port=None, rerun=True, console=Console(quiet=True)) == 0
    finally:
        signal.signal(signal.SIGTERM, before)
    lines = (published(folder) / "metrics.jsonl").read_text().splitlines()
    return [entry for entry in map(json.loads, lines) if "loss" in entry]


def base_loss(folder, scratch, step):
    """The loss of a base model on the rows of a step."""
    spec = resolve_defaults(parse_job(tiny_job(folder)).spec)
    files = ModelFiles(folder / "model", "")
    tokenizer = load_tokenizer(files)
    rows = prepare(spec, ChatFormat(tokenizer, None), scratch).train
    chosen = list(step_rows(len(rows), spec.training.batch_size, spec.training.seed, step))[step - 1]
    model = load_model(files, Quantization.NONE, choose_device(Precision.AUTO)).eval()
    return answer_loss(model, [rows[index] for index in chosen], tokenizer.pad_token_id, len(tokenizer), 1,
                       lambda: None)


@pytest.mark.parametrize("method", [{}, {"type": "Full", "lora": None}], ids=["LoRA", "Full"])
def test_a_mixture_of_experts_learns_from_its_rows_alone_and_keeps_its_configuration(tmp_path, method):
    save_tiny_family(tmp_path / "model", "mixtral", **EXPERTS)
    write_rows(tmp_path / "rows.jsonl", 12)
    metrics = run_here(tmp_path, method=method, training={"maxSteps": 1}, evaluation={"samples": 1})
    assert metrics[0]["loss"] == pytest.approx(base_loss(tmp_path, tmp_path, 1), rel=1e-4)
    if method:
        config = json.loads((published(tmp_path) / "model" / "config.json").read_text())
        assert config["router_aux_loss_coef"] == 0.5


def test_a_run_of_a_single_step_learns_at_its_learning_rate(tmp_path):
    save_tiny_family(tmp_path / "model", "llama")
    write_rows(tmp_path / "rows.jsonl", 12)
    metrics = run_here(tmp_path, training={"maxSteps": 1, "learningRate": 0.01}, evaluation={"samples": 1})
    assert [step["learningRate"] for step in metrics] == [0.01]
    learnt = load_file(published(tmp_path) / "adapter" / "adapter_model.safetensors")
    assert all(value.any() for name, value in learnt.items() if ".lora_B." in name)


