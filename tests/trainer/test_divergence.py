"""When training has diverged, and what the message tells the user to change."""

from __future__ import annotations

import math

import pytest
import torch
from finetune_trainer.training.divergence import WINDOW, divergence
from transformers import AutoModelForCausalLM

from tests.trainer.runs import run, workshop


@pytest.mark.parametrize(("losses", "grad_norm", "words"), [
    ([math.nan], None, "spec.model.source: the loss of step 1 is nan, before any weight was trained"),
    ([math.inf], 1.0, "spec.model.source: the loss of step 1 is inf, before any weight was trained"),
    ([1.0, math.nan], 1.0, "the loss of step 2 is nan; the checkpoint of step 4 is kept. Lower spec.training.learn"),
    ([1.0], math.inf, "the norm of the gradient of step 1 is inf; the checkpoint of step 4 is kept. Lower spec."),
    ([1.0] * WINDOW + [9.0] * WINDOW, 1.0, "the loss rose from 1.00 to 9.00 nats per token, which is worse than"),
])
def test_a_divergence_names_what_to_change(losses, grad_norm, words):
    assert words in (divergence(losses, grad_norm, 64, 4) or "")


@pytest.mark.parametrize("losses", [[], [9.0], [9.0, 1.0], [3.0] * WINDOW + [4.0] * WINDOW, [9.0] * 3 * WINDOW])
def test_a_finite_loss_that_is_no_worse_than_guessing_goes_on(losses):
    assert divergence(losses, 1.0, 64, 0) is None


def test_without_a_checkpoint_the_message_says_so():
    assert "there is no checkpoint yet" in (divergence([1.0, math.nan], 1.0, 64, 0) or "")


def test_a_base_with_nan_weights_ends_with_70_and_is_named(tmp_path):
    folder = workshop(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    with torch.no_grad():
        model.model.norm.weight.fill_(math.nan)
    model.save_pretrained(folder / "model")
    done = run(folder, evaluation={"baseline": False})
    assert done.code == 70, done.output
    assert "spec.model.source: the loss of step 1 is nan, before any weight was trained" in done.output
    assert "learningRate" not in done.output
