"""A job behind a queue, on a real control plane. The tests do to its Job what Kueue does: say when it may run."""

from __future__ import annotations

from tests.cluster.waiting import wait_for
from tests.operator.work import DONE

QUEUE = {"queueName": "team-queue"}


def test_a_queue_admits_preempts_and_admits_again(operator, work, api, namespace):
    def set_suspend(number, value):
        api.patch("Job", namespace, f"tune-{number}", {"spec": {"suspend": value}})

    work.apply(compute=QUEUE)
    work.until("Queued", "WaitingForQuota")
    set_suspend(1, False)
    work.until("Running")
    set_suspend(1, True)
    # The preempted one goes first: the queue can't start both.
    wait_for(lambda: work.jobs() == ["tune-2"], "the next attempt's Job alone")
    work.until("Queued", "WaitingForQuota")
    set_suspend(2, False)
    work.end(0, DONE, number=2)
    status = work.until("Succeeded")
    assert [one["reason"] for one in status["attempts"]] == ["Preempted", "Succeeded"]
    assert status["retries"]["counted"] == 0


def test_a_suspend_while_it_waits_in_the_queue_leaves_the_queue(operator, work):
    work.apply(compute=QUEUE)
    work.until("Queued", "WaitingForQuota")
    work.change(runPolicy={"suspend": True})
    work.until("Suspended")
    assert work.jobs() == []
    work.change(runPolicy={"suspend": False})
    work.until("Queued", "WaitingForQuota")
    assert not work.status().get("attempts"), "it never had a node"
