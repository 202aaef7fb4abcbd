"""Answers are the likeliest tokens, whatever settings a model brings along, and never longer than its positions."""

import pytest
import torch
from finetune_trainer.evaluation.generate import GenerationSettings, generate
from finetune_trainer.methods.reft.rollout import SamplingSettings, sample

from tests.models import save_tiny_family

PROMPTS = [(5, 80, 90), (5, 80, 90, 100, 7, 8, 70, 60), tuple(range(40, 52))]
SETTINGS = {
    "a penalty": {"repetition_penalty": 3.0}, "no repetition": {"no_repeat_ngram_size": 1},
    "a least length": {"min_length": 40}, "least new tokens": {"min_new_tokens": 8},
    "a forced end": {"forced_eos_token_id": 0}, "a forced beginning": {"forced_bos_token_id": 7},
    "forbidden words": {"bad_words_ids": [[token] for token in range(10, 200)]},
    "suppressed tokens": {"suppress_tokens": list(range(10, 200))}, "beams": {"num_beams": 3},
    "a time limit": {"max_time": 1e-9}, "a length": {"max_length": 5},
    "a decay": {"exponential_decay_length_penalty": (1, 5.0)}, "a bias": {"sequence_bias": [[[9], 99.0]]},
    "samples": {"do_sample": True, "temperature": 9.0, "top_k": 50},
}


def answer(model, prompts, **changes):
    settings = GenerationSettings(**{"end_ids": (0,), "pad_id": 0, "max_new_tokens": 8, "batch_size": 2, **changes})
    return generate(model, prompts, settings, check=lambda: None).answers


@pytest.fixture(scope="module")
def models(tiny_model_folder):
    """The tiny model with an adapter, and its answers token by token."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(tiny_model_folder, dtype=torch.float32)
    adapted = get_peft_model(base, LoraConfig(r=4, init_lora_weights=False, target_modules=["q_proj", "up_proj"]))
    adapted.eval()
    likeliest = []
    for prompt in PROMPTS:
        ids = list(prompt)
        for _ in range(8):
            with torch.inference_mode():
                ids.append(int(adapted(torch.tensor([ids])).logits[0, -1].argmax()))
            if ids[-1] == 0:
                ids.pop()
                break
        likeliest.append(tuple(ids[len(prompt):]))
    return adapted, tuple(likeliest)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_an_answer_is_its_likeliest_tokens_whatever_the_model_says_of_generating(models, settings):
    from transformers import GenerationConfig

    model, likeliest = models
    own = model.get_base_model().generation_config = GenerationConfig(**settings)
    assert answer(model, PROMPTS) == likeliest
    assert model.get_base_model().generation_config is own, "they are published with the model"


@pytest.mark.parametrize(("family", "settings"), [
    ("gpt2", {}), ("opt", {"ffn_dim": 64, "word_embed_proj_dim": 32}), ("gptj", {"rotary_dim": 8})])
def test_an_answer_ends_where_a_table_of_positions_does(tmp_path, family, settings):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        save_tiny_family(tmp_path, family, max_position_embeddings=24, **settings)).eval()
    prompts = [tuple(range(40, 62)), tuple(range(40, 64)), (70,), (71,)]
    assert list(map(len, answer(model, prompts, end_ids=(300,), max_new_tokens=20))) == [2, 1, 20, 20]
    drawn = sample(model, prompts, SamplingSettings((300,), 0, 20, 1.0), 4, torch.Generator().manual_seed(0),
                   check=lambda: None)
    assert list(map(len, drawn.responses)) == [2, 1, 20, 20]


def test_a_model_that_computes_its_positions_answers_beyond_them(tmp_path):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        save_tiny_family(tmp_path, "llama", max_position_embeddings=24)).eval()
    assert list(map(len, answer(model, [tuple(range(40, 62))], end_ids=(300,), max_new_tokens=50))) == [50]
