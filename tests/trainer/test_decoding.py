"""The loop that writes token by token: its cache, and rows that leave the batch, against transformers' own."""

import json
from itertools import pairwise

import pytest
import torch
from finetune_trainer.decoding.growing_cache import can_drop_rows, grow_in_blocks
from finetune_trainer.evaluation.constrained import SchemaGuide
from finetune_trainer.evaluation.generate import GenerationSettings, generate
from transformers import AutoModelForCausalLM, DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from tests.models import save_tiny_family, tiny_tokenizer

PROMPTS = [tuple(range(3, 3 + length)) for length in (9, 4, 14, 6, 11, 2)]
SCHEMA = {"type": "object", "required": ["word", "custody"], "additionalProperties": False,
          "properties": {"word": {"type": "string", "maxLength": 12}, "custody": {"type": "boolean"}}}


def _cache(kind):
    cache = DynamicCache()
    cache.layers = [DynamicLayer() if kind is None else DynamicSlidingWindowLayer(kind)]
    return cache


@pytest.mark.parametrize("window", [None, 2, 5, 100])
def test_a_cache_that_grows_in_blocks_holds_what_one_that_is_copied_does(window):
    torch.manual_seed(0)
    ours, theirs = _cache(window), _cache(window)
    for number, count in enumerate([7, *[1] * 150, 3, *[1] * 20]):
        keys, values = torch.randn(2, 4 - number // 60, 2, count, 8).unbind()
        found, wanted = (cache.update(keys, values, 0) for cache in (ours, theirs))
        assert all(map(torch.equal, found, wanted))
        if not number:
            grow_in_blocks(ours)
            assert type(ours.layers[0]) is not type(theirs.layers[0])
        assert ours.get_seq_length() == theirs.get_seq_length()
        assert ours.get_mask_sizes(1, 0) == theirs.get_mask_sizes(1, 0)
        if number % 60 == 59:
            for cache in (ours, theirs):
                assert can_drop_rows(cache)
                cache.batch_select_indices(torch.arange(1, 4 - number // 60))


def test_a_token_is_written_into_room_that_is_there_already():
    cache = _cache(None)
    cache.update(torch.ones(1, 1, 5, 2), torch.ones(1, 1, 5, 2), 0)
    grow_in_blocks(cache)
    places = {cache.update(torch.ones(1, 1, 1, 2), torch.ones(1, 1, 1, 2), 0)[0].data_ptr() for _ in range(64)}
    assert len(places) == 1


@pytest.mark.parametrize(("family", "settings"), [
    ("llama", {}), ("mistral", {"sliding_window": 8}), ("lfm2", {"layer_types": ["conv", "full_attention"]}),
    ("mamba", {"state_size": 4})])
def test_answers_of_a_batch_that_shrinks_are_those_of_transformers_which_never_does(tmp_path, family, settings):
    model = AutoModelForCausalLM.from_pretrained(save_tiny_family(tmp_path, family, **settings)).eval()
    ends = tuple(range(0, 259, 9))
    ours = generate(model, PROMPTS, GenerationSettings(ends, 0, 80, 6), check=lambda: None)
    assert len(set(map(len, ours.answers))) > 1, "the answers end at different lengths"
    for prompt, answer in zip(PROMPTS, ours.answers, strict=True):
        ids = torch.tensor([prompt])
        written = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=80, do_sample=False,
                                 eos_token_id=list(ends), pad_token_id=0)[0, len(prompt):].tolist()
        assert tuple(written) in (answer, (*answer, written[-1]))
        assert (written[-1] in ends) is (len(written) > len(answer))


def test_rows_with_a_schema_end_one_by_one_and_each_follows_it(tmp_path):
    """Each token is the likeliest that the schema allows, in a batch of any size."""
    model = AutoModelForCausalLM.from_pretrained(save_tiny_family(tmp_path, "llama")).eval()
    tokenizer = tiny_tokenizer()
    guide = SchemaGuide(tokenizer, SCHEMA, end_of_turn=2)
    together, alone = (generate(model, PROMPTS, GenerationSettings((2,), 0, 80, rows), lambda: None, guide.choice)
                       for rows in (6, 1))
    assert together == alone
    assert together.finished == len(PROMPTS)
    assert len(set(map(len, together.answers))) > 1, "the answers end at different lengths"
    for answer in together.answers:
        assert set(json.loads(tokenizer.decode(list(answer)))) == {"word", "custody"}


def test_the_host_waits_for_a_batch_once_a_token_whatever_its_rows(tiny_model_folder, monkeypatch):
    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder, dtype=torch.float32).eval()
    guide = SchemaGuide(tiny_tokenizer(), SCHEMA, end_of_turn=2)
    waits = []
    for name in ("tolist", "item", "__int__", "__bool__"):
        own = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda tensor, own=own, name=name: waits.append(name) or own(tensor))
    passes = []
    model.register_forward_pre_hook(lambda module, arguments: passes.append(len(waits)))
    generate(model, PROMPTS[:1] * 6, GenerationSettings((2,), 0, 20, 6), lambda: None, guide.choice)
    assert len(passes) > 5
    assert all(after - before == 1 for before, after in pairwise(passes)), waits
