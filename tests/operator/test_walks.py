"""Invariants that hold whatever a cluster does to the pods of a job; FINETUNE_WALKS=10000 tries as many worlds."""

from __future__ import annotations

import os
from collections import Counter

import pytest

from tests.operator.walks import World

PASSES = 2000


@pytest.mark.parametrize("seed", range(int(os.environ.get("FINETUNE_WALKS", "15"))))
def test_no_two_attempts_hold_nodes_and_every_record_has_an_end(seed):
    world = World(seed)
    rest = 0
    while rest < 10 and len(world.decisions) < PASSES:
        try:
            status = world.settle().status
        except AssertionError as error:
            raise AssertionError("\n".join([*world.decisions[-8:], str(error)])) from error
        for record in status.attempts:
            assert record.end_time is None or record.end_time >= record.start_time
            assert record.reason != "Running" or record.end_time is None
        assert max(Counter(record.number for record in status.attempts).values(), default=1) == 1
        rest += world.idle
        world.pass_time()
    if rest:
        status = world.settle().status
        assert all(record.end_time and record.reason != "Running" for record in status.attempts), world.decisions[-8:]
        assert status.cost.spent >= 0
