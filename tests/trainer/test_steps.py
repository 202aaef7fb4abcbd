"""How rows are laid out in steps: what training sees must not depend on memory or packing."""

import random

import pytest
import torch
from finetune_trainer.data.batches.collate import collate
from finetune_trainer.data.batches.padding import IGNORED
from finetune_trainer.data.batches.steps import Layout, lay_out, step_rows, total_steps
from finetune_trainer.data.rows import TokenRow


def _lengths(count, seed=0):
    chance = random.Random(seed)
    return [chance.choice((5, 9, 20, 70)) for _ in range(count)]


def test_every_epoch_sees_every_row_once_in_another_order():
    steps = list(step_rows(rows=12, batch_size=4, seed=1, steps=6))
    first, second = sum(steps[:3], ()), sum(steps[3:], ())
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second


def test_the_order_depends_on_the_seed_and_on_nothing_else():
    assert list(step_rows(30, 4, 7, 20)) == list(step_rows(30, 4, 7, 20))
    assert list(step_rows(30, 4, 7, 20)) != list(step_rows(30, 4, 8, 20))
    assert list(step_rows(30, 4, 7, 20))[:10] == list(step_rows(30, 4, 7, 10))


def test_a_batch_may_be_larger_than_the_data_set():
    assert sorted(next(step_rows(rows=3, batch_size=6, seed=0, steps=1))) == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(("rows", "batch", "epochs", "most", "steps"),
                         [(100, 10, 2, None, 20), (100, 16, 1, None, 6), (3, 16, 1, None, 1), (100, 10, None, 7, 7)])
def test_steps_follow_from_epochs_or_are_given(rows, batch, epochs, most, steps):
    assert total_steps(rows, batch, epochs, most) == steps


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("micro", [1, 3, 4, 16])
def test_a_step_is_laid_out_in_a_fixed_number_of_micro_batches_that_hold_each_row_once(packing, micro):
    lengths = _lengths(16)
    layout = Layout(micro, packing, hidden_size=64)
    batches = lay_out(range(16), lengths, layout)
    assert len(batches) == layout.micro_batches(16)
    assert sorted(index for lines in batches for line in lines for index in line) == list(range(16))
    assert all(0 < sum(len(line) for line in lines) <= micro for lines in batches)


def test_packing_pads_less_than_lines_of_one_row():
    lengths = _lengths(32, seed=3)

    def area(packing):
        return sum(len(lines) * max(sum(lengths[i] for i in line) for line in lines)
                   for lines in lay_out(range(32), lengths, Layout(8, packing, 2048)))

    assert area(True) < area(False)
    assert area(True) < 1.2 * sum(lengths)


def test_labels_are_the_answers_and_padding_is_never_one_of_them():
    pad = end = 0
    rows = [TokenRow((5, 6), (7, end)), TokenRow((8,), (9, 10, end))]
    batch = collate([(0,), (1,)], rows, pad)
    assert batch["labels"].tolist() == [[IGNORED, IGNORED, 7, end], [IGNORED, 9, 10, end]]
    longer = collate([(0, 1), (1,)], rows, pad)
    assert longer["labels"].tolist()[0] == [IGNORED, IGNORED, 7, end, IGNORED, 9, 10, end]
    assert longer["labels"].tolist()[1] == [IGNORED, 9, 10, end, IGNORED, IGNORED, IGNORED, IGNORED]
    assert longer["position_ids"].tolist() == [[0, 1, 2, 3, 0, 1, 2, 3], [0, 1, 2, 3, 4, 5, 6, 7]]


def _gradient(model, rows, batches):
    model.zero_grad()
    tokens = sum(len(row.answer) for row in rows)
    for lines in batches:
        batch = collate(lines, rows, 0)
        labels = batch.pop("labels")
        logits = model(**batch, use_cache=False).logits[:, :-1]
        (torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED,
                                           reduction="sum") / tokens).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def test_packed_rows_do_not_see_each_other_and_the_gradient_is_that_of_rows_alone(tiny_model_folder):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder, dtype=torch.float64, attn_implementation="sdpa")
    chance = random.Random(0)
    rows = [TokenRow(tuple(chance.choices(range(3, 250), k=chance.randint(2, 30))),
                     (*chance.choices(range(3, 250), k=chance.randint(1, 6)), 0)) for _ in range(8)]
    lengths = [len(row) for row in rows]
    alone = _gradient(model, rows, [[(index,)] for index in range(8)])
    for layout in (Layout(8, True, 8), Layout(3, True, 4096), Layout(4, False, 64)):
        batches = lay_out(range(8), lengths, layout)
        torch.testing.assert_close(_gradient(model, rows, batches), alone, rtol=1e-9, atol=1e-12)
    packed = lay_out(range(8), lengths, Layout(8, True, 100_000))
    assert any(len(line) > 1 for lines in packed for line in lines), "nothing was packed: the test shows nothing"
