"""Models of other families than Llama: the same training, packed or not, and the same answers."""

import json
import signal
from pathlib import Path

import pytest
import torch
from finetune_api import parse_job, resolve_defaults
from finetune_api.spec.job import FineTuneJobSpec
from finetune_api.spec.method import Quantization
from finetune_api.spec.training import Precision
from finetune_trainer.data.batches.steps import step_rows
from finetune_trainer.data.chat.chat_format import ChatFormat
from finetune_trainer.data.prepare import prepare
from finetune_trainer.data.rows import TokenRow
from finetune_trainer.distributed.collectives import World
from finetune_trainer.errors import BadConfig
from finetune_trainer.evaluation.loss import answer_losses, mean_loss
from finetune_trainer.hardware.device import choose_device
from finetune_trainer.methods.reft.rollout import SamplingSettings, check_sampling, sample
from finetune_trainer.model.files.find import ModelFiles
from finetune_trainer.model.loading.load import load_model
from finetune_trainer.model.tokenizer import load_tokenizer
from finetune_trainer.run.local import LocalOptions, run_job
from finetune_trainer.training.packing import Packing, choose_packing, rows_mix
from rich.console import Console
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from tests.models import save_tiny_family, tiny_job, write_rows
from tests.trainer.runs import published

EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2, "router_aux_loss_coef": 0.5, "output_router_logits": True}


def run_here(folder, **sections):
    """The tiny job in this process: the metrics of each step."""
    job = parse_job(tiny_job(folder, **sections))
    folder = Path(str(job.spec.output.uri).removeprefix("file://")).parent
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert run_job(job, Console(quiet=True), LocalOptions(rerun=True)) == 0
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
    tokens = [rows[index] for index in chosen]
    return mean_loss(answer_losses(model, tokens, tokenizer.pad_token_id, len(tokenizer), 1, lambda: None), tokens)


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




LINEAR = {"layer_types": ["linear_attention", "full_attention"], "linear_num_value_heads": 4, "head_dim": 8,
          "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
MAMBA = {"layer_types": ["mamba", "attention"], "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8,
         "num_local_experts": 0, "num_experts_per_tok": 0, "shared_intermediate_size": 64}
CONVOLUTION = {"layer_types": ["conv", "full_attention"], "block_multiple_of": 16}
MIXING = {"opt": {"ffn_dim": 64, "word_embed_proj_dim": 32}, "falcon": {}, "bloom": {}, "lfm2": CONVOLUTION,
          "qwen3_5_text": LINEAR, "granitemoehybrid": MAMBA}
APART = {"llama": {}, "gpt2": {}, "gemma2": {"head_dim": 8}, "mixtral": EXPERTS, "phi": {}}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(("family", "settings", "mix"), [*((name, MIXING[name], True) for name in MIXING),
                                                         *((name, APART[name], False) for name in APART)])
def test_a_model_is_asked_whether_rows_of_a_line_change_each_other(tmp_path, family, settings, mix, dtype):
    model = AutoModelForCausalLM.from_pretrained(save_tiny_family(tmp_path, family, **settings), dtype=dtype)
    rows = [TokenRow(tuple(range(3, 3 + length)), tuple(range(90, 99))) for length in (9, 40, 1)]
    assert rows_mix(model, rows) is mix
    assert rows_mix(model, rows[:1]) is mix, "a single row, which a step may take several times"


def test_rows_that_change_each_other_get_lines_of_their_own_and_that_is_told(tmp_path):
    save_tiny_family(tmp_path / "model", "lfm2", **CONVOLUTION)
    write_rows(tmp_path / "rows.jsonl", 12)
    packed, apart = (run_here(tmp_path, output={"uri": f"file://{tmp_path}/{packing}/out"}, evaluation={"samples": 1},
                              training={"packing": packing, "maxSteps": 2}) for packing in (True, False))
    assert packed[0]["loss"] == pytest.approx(base_loss(tmp_path, tmp_path, 1), rel=1e-4)
    assert [step["loss"] for step in packed] == [step["loss"] for step in apart]
    words = "packing is off: Lfm2ForCausalLM lets rows in one line influence each other"
    assert words in (published(tmp_path / "True") / "report.html").read_text()
    assert words not in (published(tmp_path / "False") / "report.html").read_text()


def test_packing_is_off_everywhere_where_one_process_sees_rows_change_each_other(tiny_model_folder):
    class Other(World):
        """Another process of this world sees a difference."""

        def any(self, flag):
            assert not flag, "a Llama keeps rows apart here"
            return True

    spec = resolve_defaults(parse_job(tiny_job(tiny_model_folder.parent)).spec)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder)
    rows = [TokenRow((5, 6, 7), (8, 9))]
    told = []
    assert choose_packing(spec, model, rows, World(), told.append) == Packing(spec, by_rows=True) and not told
    chosen = choose_packing(spec, model, rows, Other(), told.append)
    assert isinstance(chosen.spec, FineTuneJobSpec)
    assert not chosen.spec.training.packing and not chosen.by_rows and list(chosen.findings) == told


@pytest.mark.parametrize(("family", "settings"), [("lfm2", CONVOLUTION), ("qwen3_5_text", LINEAR),
                                                  ("granitemoehybrid", MAMBA), ("mistral", {"sliding_window": 8})])
def test_rows_that_end_while_others_go_on_are_sampled_as_if_alone_by_every_kind_of_cache(tmp_path, family, settings):
    model = AutoModelForCausalLM.from_pretrained(save_tiny_family(tmp_path, family, **settings)).eval()
    check_sampling(model)
    prompts = [tuple(range(3, 3 + length)) for length in (9, 4, 14, 6, 11, 2)]
    together, alone = (sample(
        model, prompts, SamplingSettings(tuple(range(0, 259, 7)), 0, 12, 1e-7), rows,
        torch.Generator().manual_seed(0), check=lambda: None) for rows in (8, 1))
    assert together == alone
    assert len(set(map(len, together.responses))) > 1, "the rows end at different lengths"


def test_a_model_that_keeps_its_state_otherwise_is_refused_by_name_before_it_is_trained(tmp_path):
    small = {"state_size": 4, "vocab_size": 259, "hidden_size": 32, "num_hidden_layers": 2}
    with torch.device("meta"):
        models = [AutoModelForCausalLM.from_config(AutoConfig.for_model("mamba", **small)),
                  AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", hidden_size=64, num_hidden_layers=1))]
    refusal = r"spec.method.type: ReFT samples with a cache .* and MambaForCausalLM returns none"
    with pytest.raises(BadConfig, match=refusal):
        check_sampling(models[0])
    check_sampling(models[1])
    recurrent = save_tiny_family(tmp_path, "recurrent_gemma", lru_width=32, attention_window_size=16,
                                  head_dim=8, num_hidden_layers=3)
    with pytest.raises(BadConfig, match="RecurrentGemmaForCausalLM"):
        check_sampling(AutoModelForCausalLM.from_pretrained(recurrent))
