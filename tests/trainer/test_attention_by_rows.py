"""Attention by rows: the same numbers as rows alone and as a mask, without the mask; and who still needs the mask."""

import contextlib
import random
from typing import Any

import pytest
import torch
from finetune_trainer.data.batches.collate import collate
from finetune_trainer.data.batches.padding import IGNORED
from finetune_trainer.data.batches.steps import Layout, lay_out
from finetune_trainer.data.rows import TokenRow
from finetune_trainer.model import attention_by_rows
from finetune_trainer.model.attention_by_rows import AttentionCall, attending_by_rows, call_refused
from finetune_trainer.training import packing
from finetune_trainer.training.packing import by_rows_refused
from transformers import AttentionInterface, AutoModelForCausalLM

from tests.models import save_tiny_family, write_rows
from tests.trainer.test_families import EXPERTS, run_here

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {}, "mistral": {"sliding_window": 8}, "mixtral": {**EXPERTS, "output_router_logits": False},
    "qwen2": {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}, "qwen3": {"head_dim": 8},
    "gemma": {"head_dim": 8}, "gemma3_text": {"head_dim": 8, "sliding_window": 8}, "phi": {},
    "phi3": {"sliding_window": 8}, "starcoder2": {"sliding_window": 8}, "cohere2": {"sliding_window": 8},
    "olmo2": {}, "granite": {}, "gpt_neox": {}, "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32, "dropout": 0.0},
}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "gemma2": ({"head_dim": 8}, "has the attention implementation eager"),
    "gpt2": ({}, "drops attention scores at random"),
    "stablelm": ({}, "has attention of its own"),
    "lfm2": ({"layer_types": ["conv", "full_attention"], "block_multiple_of": 16}, "mixes rows of one line"),
}


def some_rows(count=6, seed=0):
    chance = random.Random(seed)
    return [TokenRow(tuple(chance.choices(range(3, 250), k=chance.randint(2, 40))),
                     (*chance.choices(range(3, 250), k=chance.randint(1, 6)), 0)) for _ in range(count)]


def gradient(model, rows, batches):
    """The gradient of the mean loss of all answers' tokens, and that loss."""
    model.zero_grad()
    tokens, total = sum(len(row.answer) for row in rows), 0.0
    for batch in batches:
        labels = batch["labels"]
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        logits = model(**inputs, use_cache=False).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED,
                                                 reduction="sum") / tokens
        loss.backward()
        total += loss.item()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]), total


@pytest.mark.parametrize(("family", "checkpointing"), [*((family, False) for family in FAMILIES), ("llama", True),
                                                       ("mistral", True), ("gemma3_text", True)])
def test_rows_of_a_line_learn_as_if_alone_in_every_family_without_a_mask(tmp_path, monkeypatch, family, checkpointing):
    folder = save_tiny_family(tmp_path, family, **FAMILIES[family])
    # torch multiplies experts in no more than float32.
    precise = family != "mixtral"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64 if precise else torch.float32).train()
    rows = some_rows()
    alone, loss = gradient(model, rows, [collate([(index,)], rows, 0) for index in range(len(rows))])
    windows, masks = set(), []

    def attend(module, query, key, value, attention_mask, **options):
        windows.add(options.get("sliding_window"))
        masks.append(attention_mask)
        return real(module, query, key, value, attention_mask, **options)

    real = attention_by_rows._attention_by_rows
    monkeypatch.setitem(AttentionInterface._global_mapping, attention_by_rows.NAME, attend)
    if checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    with attending_by_rows(model):
        together, same = gradient(model, rows, [collate([tuple(range(len(rows)))], rows, 0, by_rows=True)])
    assert same == pytest.approx(loss, abs=1e-5, rel=0)
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-7 if precise else 1e-5)
    assert len(masks) == 2 + 2 * checkpointing and not any(mask is not None for mask in masks), "one a layer and pass"
    assert (8 in windows) == any("sliding_window" in name for name in FAMILIES[family]), windows
    assert model.config._attn_implementation == "sdpa", "outside, nothing has changed"


def test_a_line_that_attends_as_one_row_would_be_noticed(tiny_model_folder):
    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder, dtype=torch.float64)
    rows = some_rows()
    alone, _ = gradient(model, rows, [collate([(index,)], rows, 0) for index in range(len(rows))])
    batch = collate([tuple(range(len(rows)))], rows, 0, by_rows=True)
    batch["cu_seq_lens_q"] = batch["cu_seq_lens_q"][[0, -1]]
    with attending_by_rows(model):
        mixed, _ = gradient(model, rows, [batch])
    assert not torch.allclose(mixed, alone, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize(("family", "settings"), [
    ("llama", {"gradientCheckpointing": "enabled"}), ("mistral", {})])
def test_a_job_has_the_losses_of_a_mask_to_five_decimals(tmp_path, monkeypatch, family, settings):
    save_tiny_family(tmp_path / "model", family, **FAMILIES[family])
    write_rows(tmp_path / "rows.jsonl", 16)
    training = {"maxSteps": 3, "microBatchSize": 4, **settings}
    losses = []
    for way in ("by rows", "masked"):
        if way == "masked":
            monkeypatch.setattr(packing, "by_rows_refused", lambda *_: "is asked by a test")
        metrics = run_here(tmp_path, output={"uri": f"file://{tmp_path}/{way}/out"}, training=training,
                           evaluation={"samples": 1})
        losses.append([step["loss"] for step in metrics])
    assert losses[0] == pytest.approx(losses[1], abs=1e-5, rel=0)
    assert len(set(losses[0])) == 3


@pytest.mark.parametrize("family", [*REFUSED, "llama"])
def test_a_model_that_needs_a_mask_is_found_out_before_training(tmp_path, family):
    settings, words = REFUSED.get(family, ({}, None))
    model = AutoModelForCausalLM.from_pretrained(save_tiny_family(tmp_path, family, **settings))
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    assert not model.training
    reason = by_rows_refused(model, some_rows())
    assert (reason or "").startswith(words) if words else reason is None
    assert torch.equal(torch.random.get_rng_state(), before), "a resumed run would see other random numbers"
    assert not model.training


def test_a_kernel_that_fails_on_this_gpu_is_a_reason_for_a_mask(tiny_model_folder, monkeypatch):
    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder)

    def broken(*_):
        raise RuntimeError("FlashAttention only supports Ampere GPUs or newer.")

    monkeypatch.setattr(attention_by_rows, "_row_after_row", broken)
    assert by_rows_refused(model, some_rows()) == "FlashAttention only supports Ampere GPUs or newer."
    assert model.config._attn_implementation == "sdpa"


L4, T4, EDGES = (8, 9), (7, 5), {"cu_seq_lens_q": torch.tensor([0, 4]), "softcap": None, "sliding_window": 8}
BF16 = AttentionCall(128, 128, torch.bfloat16, L4, 0.0, True, EDGES)


@pytest.mark.parametrize(("change", "words"), [
    ({}, None),
    ({"dtype": torch.float16, "key_size": 256, "value_size": 256}, None),
    ({"capability": T4}, "runs on a GPU older than Ampere"),
    ({"dtype": torch.float32}, "computes attention in float32"),
    ({"key_size": 192}, "has heads of 192 numbers for keys and 128 for values"),
    ({"key_size": 80, "value_size": 80}, None),
    ({"key_size": 84, "value_size": 84}, "has heads of 84 numbers"),
    ({"key_size": 264, "value_size": 264}, "has heads of 264 numbers"),
    ({"capability": None, "dtype": torch.float32, "key_size": 84}, None),
    ({"options": {}}, "does not tell its attention where rows begin"),
    ({"options": {**EDGES, "softcap": 50.0}}, "caps its scores"),
    ({"options": {**EDGES, "s_aux": torch.zeros(2)}}, "has attention sinks"),
    ({"options": {**EDGES, "position_bias": torch.zeros(2)}}, "biases its scores"),
    ({"dropout": 0.1}, "drops attention scores at random"),
    ({"causal": False, "capability": None}, "also attends to later tokens"),
])
def test_which_attention_goes_by_rows(change, words):
    assert call_refused(BF16._replace(**change)) == words


def kernel(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale, window_size, enable_gqa):
    """What torch says that `varlen_attn` computes, token by token; there is no GPU here."""
    assert torch.equal(cu_seq_q, cu_seq_k) and max_q == max_k == max(cu_seq_q.diff()) and enable_gqa
    left, right = window_size
    assert right == 0
    output = torch.empty_like(query)
    for start, end in zip(cu_seq_q.tolist(), cu_seq_q.tolist()[1:], strict=False):
        for place in range(start, end):
            first = start if left < 0 else max(start, place - left)
            keys, values = (one[first:place + 1].repeat_interleave(query.shape[1] // key.shape[1], 1)
                            for one in (key, value))
            weights = (torch.einsum("hd,thd->ht", query[place], keys) * scale).softmax(-1)
            output[place] = torch.einsum("ht,thd->hd", weights, values)
    return output


@pytest.mark.parametrize("window", [None, 3])
def test_the_kernel_on_a_gpu_gets_what_the_rows_on_a_cpu_get(monkeypatch, window):
    monkeypatch.setattr(attention_by_rows, "varlen_attn", kernel)
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, heads, 12, 8, dtype=torch.float64) for heads in (4, 2, 2))
    rows = attention_by_rows._Rows(torch.tensor([0, 5, 6, 12], dtype=torch.int32), 6, window)
    one = attention_by_rows._in_one_kernel(query, key, value, rows, 0.3)
    torch.testing.assert_close(attention_by_rows._row_after_row(query, key, value, rows, 0.3), one)


def test_the_kernel_saves_queries_keys_and_values_as_they_are_the_output_and_one_number_a_head():
    # torch describes its kernel's results without computing them on the device `meta`.
    query, key, value = (torch.randn(1, 10, heads, 64, device="meta", dtype=torch.bfloat16, requires_grad=True)
                         for heads in (8, 2, 2))
    rows = attention_by_rows._Rows(torch.zeros(4, dtype=torch.int32, device="meta"), 6, 4)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda one: saved.append(one) or one, lambda one: one):
        output = attention_by_rows._in_one_kernel(
            query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), rows, None)
    assert output.shape == (1, 10, 8, 64)
    numbers = sorted((tuple(one.shape), str(one.dtype)) for one in saved if one.numel() > 8)
    half, single = "torch.bfloat16", "torch.float32"
    assert numbers == [((8, 10), single), *[((10, 2, 64), half)] * 2, *[((10, 8, 64), half)] * 2]
    output.backward(torch.empty_like(output))
    assert key.grad.shape == key.shape and query.grad.shape == query.shape


def test_all_rows_of_a_micro_batch_share_one_line_without_padding():
    rows = some_rows(8)
    lengths = [len(row) for row in rows]
    for lines in lay_out(range(8), lengths, Layout(4, True, 8, one_line=True)):
        (line,) = lines
        batch = collate(lines, rows, 0, by_rows=True)
        edges = batch["cu_seq_lens_q"]
        assert batch["input_ids"].shape == (1, sum(lengths[index] for index in line)) == (1, edges[-1])
        assert edges.dtype is torch.int32 and edges.diff().tolist() == [lengths[index] for index in line]
        assert batch["max_length_q"] == max(lengths[index] for index in line)
        assert (batch["position_ids"][0] == 0).nonzero().flatten().tolist() == edges[:-1].tolist()


def test_a_model_has_its_own_attention_again_when_a_pass_fails(tiny_model_folder):
    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder)
    ids = torch.arange(3, 13).unsqueeze(0)
    expected = model(input_ids=ids).logits
    with contextlib.suppress(NotImplementedError), attending_by_rows(model):
        model(input_ids=ids)  # Without edges.
        pytest.fail("attention without edges would mix all rows")
    assert torch.equal(model(input_ids=ids).logits, expected)
