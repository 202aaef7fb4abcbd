"""The learning rate of each step: no step is for nothing, and the peak is reached."""

import pytest
from finetune_api.spec.training import Scheduler, TrainingSpec
from finetune_trainer.training.schedule import ramp, share_of_peak


def shares(steps, scheduler, warmup):
    training = TrainingSpec(scheduler=Scheduler(scheduler), warmup=warmup)
    return [share_of_peak(step, steps, training) for step in range(steps)]


@pytest.mark.parametrize("scheduler", Scheduler)
@pytest.mark.parametrize("warmup", [0.0, 0.03, 0.5, 0.999])
@pytest.mark.parametrize("steps", [1, 2, 3, 20, 500])
def test_every_step_has_a_rate_and_one_has_the_whole_rate(scheduler, warmup, steps):
    found = shares(steps, scheduler=scheduler, warmup=warmup)
    assert min(found) > 0
    assert max(found) == 1.0


def test_a_warm_up_rises_in_equal_parts_before_every_scheduler():
    for scheduler in Scheduler:
        assert shares(20, scheduler=scheduler, warmup=0.2)[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_after_the_warm_up_the_rate_stays_or_falls_towards_zero():
    assert shares(4, scheduler="constant", warmup=0) == [1.0] * 4
    assert shares(4, scheduler="linear", warmup=0) == pytest.approx([1.0, 0.75, 0.5, 0.25])
    assert shares(4, scheduler="cosine", warmup=0) == pytest.approx([1.0, 0.8535534, 0.5, 0.1464466])


@pytest.mark.parametrize(("steps", "ramp_steps", "expected"), [
    (4, 2, [0.5, 1.0, 1.0, 1.0]), (4, 0, [1.0] * 4), (1, 5, [1.0]), (2, 5, [0.5, 1.0])])
def test_the_ramp_of_ppo_ends_at_the_peak_at_the_latest_with_the_last_step(steps, ramp_steps, expected):
    assert [ramp(step, steps, ramp_steps) for step in range(steps)] == expected
