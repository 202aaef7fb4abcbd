"""PPO's arithmetic against numbers worked out by hand, and the sampler against transformers' own."""

import math
import weakref

import pytest
import torch
from finetune_api.status import Rollouts
from finetune_trainer.data.batches.padding import left_padded, positions
from finetune_trainer.hardware.device import Device
from finetune_trainer.methods.reft.advantages import (
    advantages,
    explained_variance,
    per_response,
    policy_loss,
    token_rewards,
    value_loss,
    whiten,
)
from finetune_trainer.methods.reft.collapse import ADVICE, PATIENCE, collapsed, remark, stuck
from finetune_trainer.methods.reft.micro_batches import MicroBatchLimits
from finetune_trainer.methods.reft.policy import Policy
from finetune_trainer.methods.reft.rollout import SamplingSettings, sample
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from tests.models import save_tiny_family

CPU = Device(torch.device("cpu"), torch.float32)
MASK = torch.tensor([[1.0, 1.0, 1.0], [0.0, 1.0, 1.0]])


def test_the_score_stands_on_the_last_token_and_every_token_pays_for_its_distance():
    log_probs = torch.tensor([[-1.0, -2.0, -0.5], [7.0, -1.0, -1.5]])
    reference = torch.tensor([[-1.5, -1.0, -0.5], [9.0, -1.0, -0.5]])
    rewards = token_rewards(torch.tensor([1.0, 0.1]), log_probs, reference, MASK, kl_coefficient=0.1)
    # −0.1·(−1 + 1.5), −0.1·(−2 + 1), 1 − 0;  nothing where there is no token, 0, 0.1 − 0.1·(−1.5 + 0.5)
    torch.testing.assert_close(rewards, torch.tensor([[-0.05, 0.1, 1.0], [0.0, 0.0, 0.2]]))


def test_advantages_are_those_worked_out_by_hand():
    rewards = torch.tensor([[0.0, 0.0, 1.0], [5.0, 0.0, 2.0]])
    values = torch.tensor([[0.5, 0.25, 0.5], [9.0, 1.0, 0.5]])
    found, returns = advantages(rewards, values, MASK, gamma=1.0, decay=0.5)
    # From the end: 1 − 0.5 = 0.5; (0.5 − 0.25) + 0.5·0.5 = 0.5; (0.25 − 0.5) + 0.5·0.5 = 0.
    # The second has two tokens: 2 − 0.5 = 1.5; (0.5 − 1) + 0.5·1.5 = 0.25; what stands before them counts for nothing.
    torch.testing.assert_close(found, torch.tensor([[0.0, 0.5, 0.5], [0.0, 0.25, 1.5]]))
    torch.testing.assert_close(returns, torch.tensor([[0.5, 0.75, 1.0], [0.0, 1.25, 2.0]]))


def test_a_discount_weighs_what_comes_later():
    rewards, values = torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0, 0.5]])
    found, _ = advantages(rewards, values, torch.ones(1, 2), gamma=0.5, decay=1.0)
    # 1 − 0.5 = 0.5; 0.5·0.5 − 0 + 0.5·0.5 = 0.5
    torch.testing.assert_close(found, torch.tensor([[0.5, 0.5]]))


def test_with_lambda_one_the_return_is_the_sum_of_the_rewards_to_come():
    rewards = torch.tensor([[0.25, -0.5, 1.0]])
    _, returns = advantages(rewards, torch.tensor([[3.0, -2.0, 7.0]]), torch.ones(1, 3), gamma=1.0, decay=1.0)
    torch.testing.assert_close(returns, torch.tensor([[0.75, 0.5, 1.0]]))


def test_whitening_is_over_the_tokens_that_there_are():
    found = whiten(torch.tensor([[1.0, 2.0, 3.0], [100.0, 4.0, 5.0]]), MASK)
    # Mean 3, variance (4 + 1 + 0 + 1 + 4) / 5 = 2.
    step = 1 / math.sqrt(2)
    torch.testing.assert_close(found, torch.tensor([[-2 * step, -step, 0.0], [0.0, step, 2 * step]]))


def test_equal_advantages_whiten_to_nothing():
    assert not whiten(torch.full((2, 3), 0.7), MASK).abs().gt(1e-2).any()


def test_a_long_response_weighs_no_more_than_a_short_one():
    values = torch.tensor([[3.0, 3.0, 3.0], [99.0, 1.0, 2.0]])
    assert float(per_response(values, MASK)) == pytest.approx(3.0 + 1.5)


def test_the_policy_loss_is_clipped_where_that_is_worse():
    ratio = torch.tensor([[1.5, 0.5, 1.5, 0.5, 1.1]])
    advantage = torch.tensor([[1.0, 1.0, -1.0, -1.0, 1.0]])
    loss, clipped = policy_loss(ratio.log(), torch.zeros(1, 5), advantage, torch.ones(1, 5), clip=0.2)
    # −1.2 (clipped), −0.5, 1.5, 0.8 (clipped), −1.1: their mean.
    assert float(loss) == pytest.approx((-1.2 - 0.5 + 1.5 + 0.8 - 1.1) / 5)
    assert int(clipped) == 2


def test_a_clipped_token_has_no_gradient_and_a_free_one_has():
    log_probs = torch.tensor([[math.log(1.5), math.log(1.1)]], requires_grad=True)
    loss, _ = policy_loss(log_probs, torch.zeros(1, 2), torch.ones(1, 2), torch.ones(1, 2), clip=0.2)
    loss.backward()
    torch.testing.assert_close(log_probs.grad, torch.tensor([[0.0, -0.55]]))


def test_the_value_loss_is_half_the_larger_squared_error_averaged_per_response():
    values, old, returns = torch.tensor([[1.0, 0.1]]), torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 1.0]])
    # The first moved from 0 to 1, but only 0.2 of it counts: ½·0.8². The second: ½·0.9².
    loss = value_loss(values, old, returns, torch.ones(1, 2), clip=0.2)
    assert float(loss) == pytest.approx((0.5 * 0.64 + 0.5 * 0.81) / 2)


def test_explained_variance_is_one_for_perfect_values_and_nothing_for_a_constant():
    returns = torch.tensor([[0.0, 1.0, 0.5], [77.0, 1.0, 0.0]])
    assert explained_variance(returns, returns, MASK) == pytest.approx(1.0)
    assert explained_variance(torch.full((2, 3), 0.4), returns, MASK) == pytest.approx(0.0, abs=1e-6)
    assert explained_variance(returns, torch.ones(2, 3), MASK) == 0.0


def test_micro_batches_hold_every_response_once_within_their_limits():
    lengths = [5, 40, 7, 40, 39, 2]
    groups = MicroBatchLimits(80, 3).split(range(6), lengths)
    assert sorted(index for group in groups for index in group) == list(range(6))
    assert groups == [[1, 3], [4, 2], [0, 5]]
    assert MicroBatchLimits(3, None).split([1], lengths) == [[1]], "a row that is too long stands alone"


def _seen(reward=0.5, accuracy=0.5, kl=1.0, entropy=0.5, tokens=10.0):
    return Rollouts(reward=reward, accuracy=accuracy, kl=kl, clip_fraction=0, explained_variance=0, entropy=entropy,
                    response_tokens=tokens, rollout_seconds=1, update_seconds=1)


@pytest.mark.parametrize(("last", "words"), [
    (_seen(reward=math.nan), "the reward of step 20 is nan"),
    (_seen(reward=0.1, accuracy=0), "no response has been right for 10 steps, though some were at first"),
    (_seen(reward=0.1, accuracy=0.1, kl=50), "the policy ran 5.00 nats per token away from the warm-up"),
    (_seen(reward=0.1, accuracy=0.1, entropy=4.9), "the policy's entropy rose to 4.90 nats, near guessing (5.30)"),
    (_seen(reward=0.9, accuracy=0.9, kl=50), None),
    (_seen(), None),
])
def test_a_collapse_is_named_and_a_gain_is_none(last, words):
    found = collapsed([_seen()] * 10 + [last] * 10, vocabulary=200)
    assert words in found if words else found is None


def test_a_reward_that_never_comes_is_named_with_what_to_do():
    nothing = [_seen(reward=0.1, accuracy=0)] * PATIENCE
    assert stuck(nothing[1:]) is None
    assert stuck([*nothing, _seen()]) is None
    assert ADVICE in stuck(nothing)


def test_an_end_without_a_gain_is_said_and_a_gain_beyond_chance_is_not():
    assert "brought no gain: 20 % of the sampled responses were right in its first 10" in remark(
        [_seen(accuracy=0.2)] * 10 + [_seen(accuracy=0.21)] * 10, rollouts=64)
    assert remark([_seen(accuracy=0.2)] * 10 + [_seen(accuracy=0.4)] * 10, rollouts=64) is None


@pytest.fixture(scope="module")
def model(tiny_model_folder):
    return AutoModelForCausalLM.from_pretrained(tiny_model_folder, dtype=torch.float32).eval()


PROMPTS = [(5, 6, 7), (8, 9, 10, 11, 12), (13,), (5, 6, 7, 8)]


def _sample(model, prompts=PROMPTS, batch_size=8, end_ids=(0,), temperature=1.0, seed=1, most=12):
    return sample(model, prompts, SamplingSettings(tuple(end_ids), 0, most, temperature), batch_size,
                  torch.Generator().manual_seed(seed), check=lambda: None)


def test_at_a_low_temperature_the_sampler_writes_what_greedy_decoding_writes(model):
    drawn = _sample(model, temperature=1e-7)
    for prompt, response in zip(PROMPTS, drawn.responses, strict=True):
        mask = torch.ones(1, len(prompt), dtype=torch.long)
        greedy = model.generate(input_ids=torch.tensor([prompt]), attention_mask=mask,
                                max_new_tokens=12, do_sample=False, eos_token_id=0, pad_token_id=0)
        assert tuple(greedy[0, len(prompt):].tolist()) == response


def test_rows_that_end_leave_the_batch_and_the_others_go_on_as_if_alone(model):
    """At a low temperature chance plays no part, so each row must be what it is in a batch of its own."""
    ends = tuple(range(0, 259, 9))
    together = _sample(model, PROMPTS * 3, temperature=1e-7, end_ids=ends, most=40)
    assert len(set(map(len, together.responses))) > 1, "the rows end at different lengths"
    for prompt, response, ended in zip(PROMPTS * 3, together.responses, together.ended, strict=True):
        alone = _sample(model, [prompt], temperature=1e-7, end_ids=ends, most=40)
        assert (alone.responses[0], alone.ended[0]) == (response, ended)
        assert (response[-1] in ends) is ended
        assert not any(token in ends for token in response[:-1])


def test_the_same_seed_draws_the_same_and_another_draws_others(model):
    assert _sample(model) == _sample(model)
    assert _sample(model) != _sample(model, seed=2)


def test_tokens_are_drawn_as_often_as_the_model_says(model):
    count = 4000
    drawn = _sample(model, [(5, 6, 7)] * count, batch_size=count, most=1)
    with torch.inference_mode():
        wanted = model(torch.tensor([[5, 6, 7]])).logits[0, -1].softmax(-1)
    found = torch.bincount(torch.tensor([r[0] for r in drawn.responses]), minlength=len(wanted)) / count
    likely = wanted.topk(20).indices
    assert ((found - wanted)[likely].abs() < 5 * (wanted[likely] / count).sqrt()).all()


def test_a_padded_row_scores_as_it_does_alone(model):
    base = AutoModelForCausalLM.from_pretrained(model.name_or_path, dtype=torch.float32)
    adapted = get_peft_model(base, LoraConfig(r=4, init_lora_weights=False, target_modules=["q_proj", "up_proj"]))
    policy = Policy(adapted, pad_id=0, temperature=1.0, device=CPU)
    dialogues = [((5, 6, 7), (8, 9)), ((10, 11, 12, 13, 14, 15), (16, 17, 18, 19)), ((20,), (21,))]
    with torch.no_grad():
        together = policy.score(dialogues)
        for row, (prompt, response) in enumerate(dialogues):
            alone = policy.score([(prompt, response)])
            for name in ("log_probs", "values", "entropies"):
                torch.testing.assert_close(getattr(together, name)[row, -len(response):], getattr(alone, name)[0],
                                           rtol=1e-4, atol=1e-5)
            logits = policy.model(torch.tensor([[*prompt, *response]])).logits[0].log_softmax(-1)
            wanted = [float(logits[len(prompt) + place - 1, token]) for place, token in enumerate(response)]
            assert alone.log_probs[0].tolist() == pytest.approx(wanted, abs=1e-4)
    assert together.mask.sum(1).tolist() == [2, 4, 1]


def test_scoring_holds_the_hidden_states_of_one_layer_alone(model):
    policy = Policy(AutoModelForCausalLM.from_pretrained(model.name_or_path, dtype=torch.float32), 0, 1.0, CPU)
    outputs: list[weakref.ref] = []
    alive: list[int] = []
    for layer in policy.model.model.layers:
        layer.register_forward_hook(lambda module, arguments, output: outputs.append(weakref.ref(output)))
    policy.model.lm_head.register_forward_pre_hook(
        lambda module, arguments: alive.append(sum(output() is not None for output in outputs)))
    with torch.no_grad():
        policy.score([((5, 6, 7), (8, 9))])
    assert len(outputs) == 2
    assert alive[0] <= 1, "the head's turn has come, and earlier layers are done"


@pytest.mark.parametrize(("family", "settings"), [
    ("llama", {}), ("gemma2", {"head_dim": 8, "final_logit_softcapping": 2.0}), ("cohere", {"logit_scale": 0.1}),
    ("granite", {"logits_scaling": 4.0}), ("gpt2", {}), ("lfm2", {"layer_types": ["conv", "full_attention"]}),
    ("opt", {"ffn_dim": 64, "word_embed_proj_dim": 32})])
def test_values_come_from_the_state_that_transformers_calls_the_last_and_logits_are_the_models_own(
        tmp_path, family, settings):
    policy = Policy(AutoModelForCausalLM.from_pretrained(save_tiny_family(tmp_path, family, **settings)), 0, 1.0, CPU)
    torch.nn.init.normal_(policy.value_head.weight)
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    with torch.no_grad():
        scored = policy.score([((5, 6, 7), (8, 9))])
        whole = policy.model(ids, output_hidden_states=True)
        torch.testing.assert_close(scored.values[0], policy.value_head(whole.hidden_states[-1][0, 2:4]).squeeze(-1))
        wanted = whole.logits[0, 2:4].log_softmax(-1).gather(-1, ids[0, 3:].unsqueeze(-1)).squeeze(-1)
        torch.testing.assert_close(scored.log_probs[0], wanted)


def test_values_are_what_is_expected_of_any_response_until_something_is_learnt(model):
    policy = Policy(AutoModelForCausalLM.from_pretrained(model.name_or_path, dtype=torch.float32), 0, 1.0, CPU)
    dialogues = [((5, 6, 7), (8, 9)), ((20,), (21,))]
    with torch.no_grad():
        assert not policy.score(dialogues).values.any()
        policy.set_initial_value(0.25)
        assert policy.score(dialogues).values.tolist() == [[0.25, 0.25], [0.0, 0.25]]


def test_the_reference_is_the_warm_up_to_the_bit_and_the_policy_comes_back(model):
    base = AutoModelForCausalLM.from_pretrained(model.name_or_path, dtype=torch.float32)
    adapted = get_peft_model(base, LoraConfig(r=4, init_lora_weights=False, target_modules=["q_proj"]))
    policy = Policy(adapted, pad_id=0, temperature=1.0, device=CPU)
    dialogue = [((5, 6, 7), (8, 9))]
    with torch.no_grad():
        start = policy.score(dialogue).log_probs
        for parameter in policy.trainable.values():
            parameter.add_(0.05)
        moved = policy.score(dialogue).log_probs
        with policy.as_reference():
            assert torch.equal(policy.score(dialogue).log_probs, start)
        assert torch.equal(policy.score(dialogue).log_probs, moved)
    assert not torch.equal(start, moved)


def test_padding_on_the_left_counts_no_position():
    ids, mask = left_padded([(7, 8), (9,)], 1)
    assert ids.tolist() == [[7, 8], [1, 9]]
    assert positions(mask).tolist() == [[0, 1], [0, 0]]
