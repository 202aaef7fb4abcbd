"""Sweeps, watches and passes over many jobs in one event loop: nothing stands still, nothing comes back to life."""

from __future__ import annotations

import asyncio
import json

import aiohttp
import pytest
from aiohttp import web
from finetune_operator.cluster.cache.cache import Cache
from finetune_operator.cluster.queue import WorkQueue
from finetune_operator.cluster.reconcile.reconciler import Reconciler
from finetune_operator.cluster.reconcile.runtime import Runtime
from finetune_operator.cluster.reconcile.workers import run_workers
from finetune_operator.cluster.watch.session import responses
from finetune_operator.cluster.watch.sweep import CHUNK, sweep
from finetune_operator.errors import LeaseLost
from finetune_operator.telemetry.metrics import UNREADABLE

from tests.operator.objects import KEY, NOW, SETTINGS, decide, raw_attempt, raw_job, raw_pod, started

MANY = 20_000
WORKERS = 8
FINISHED = decide(raw_job(started()), raw_attempt(ended="Failed"), raw_pod(exit_code=64), at=70).status


DONE = raw_job(FINISHED)


class Lists:
    """The pages of lists; `between` is called after each page was read and before it is taken in."""

    events = None

    def __init__(self, pages, between=lambda: None):
        self.pages, self.between = pages, between

    async def list_into(self, path, selector, take):
        for page in self.pages if "finetunejobs" in path else []:
            await asyncio.sleep(0)
            self.between()
            for raw in page:
                take(raw)
        return 10 if "finetunejobs" in path else 0


def named(name, **known):
    raw = raw_job(FINISHED, **known) if known else DONE
    return {**raw, "metadata": {**raw["metadata"], "name": name, "uid": f"uid-{name}"}}


def pages_of(jobs):
    return [jobs[start:start + 500] for start in range(0, len(jobs), 500)]


async def turns_meanwhile(work):
    """How often the event loop turned while something ran."""
    turns = [0]

    async def count():
        while True:
            turns[0] += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    try:
        await work(turns)
    finally:
        counting.cancel()
    return turns[0]


def test_many_finished_jobs_are_swept_in_portions_and_queue_nothing():
    cache, queue = Cache(), WorkQueue()
    lists = Lists(pages_of([named(f"job-{number}") for number in range(MANY)]))

    async def swept(_):
        await sweep(cache, queue, lists, ())  # type: ignore[arg-type]

    turns = asyncio.run(turns_meanwhile(swept))
    assert len(list(cache.jobs())) == MANY
    assert turns >= MANY / CHUNK + MANY / 500
    assert len(queue) == 0


@pytest.mark.parametrize("raws", [
    [named("tune", runPolicy={"ttlSecondsAfterFinished": 5}), raw_attempt(uid="uid-tune", ended="Complete")],
    [named("tune"), raw_attempt(uid="uid-tune")], [named("tune", generation=2)], [raw_job(started())], [raw_job()],
], ids=["children to go", "a Job that runs", "an edit that nobody looked at", "started", "new"])
def test_a_sweep_has_every_job_looked_at_that_something_is_left_to_do_about(raws):
    cache, queue = Cache(), WorkQueue()
    for raw in raws[1:]:
        cache.record(raw)

    async def twice():
        await sweep(cache, queue, Lists([raws[:1]]), ())  # type: ignore[arg-type]
        return len(queue)

    assert asyncio.run(twice()) == 1


def test_passes_without_news_let_the_event_loop_turn_after_each():
    cache, queue = Cache(), WorkQueue()
    passes = 200
    for number in range(passes):
        cache.record(named(f"job-{number}"))

    async def worked(_):
        reconciler = Reconciler(cache, queue, Lists([]), SETTINGS, Runtime(lambda: NOW))  # type: ignore[arg-type]
        for key, _ in list(cache.jobs()):
            queue.add(key)
        working = asyncio.create_task(run_workers(WORKERS, cache, queue, reconciler))
        while len(queue):
            await asyncio.sleep(0)
        working.cancel()

    assert asyncio.run(turns_meanwhile(worked)) >= passes / WORKERS


def test_a_replica_whose_lease_ran_out_during_a_pass_does_nothing_more():
    cache, queue = Cache(), WorkQueue()
    cache.record(raw_job())

    def lost():
        raise LeaseLost("the Lease was not renewed")

    async def work():
        queue.add(KEY)
        reconciler = Reconciler(cache, queue, Lists([]), SETTINGS, Runtime(lambda: NOW, lost))  # type: ignore[arg-type]
        await run_workers(WORKERS, cache, queue, reconciler)

    with pytest.raises(ExceptionGroup) as failed:
        asyncio.run(work())
    assert failed.group_contains(LeaseLost)


@pytest.mark.parametrize("version", ["5", "11"], ids=["seen by the page", "made since"])
def test_what_is_deleted_while_a_page_of_a_sweep_is_read_stays_deleted(version):
    cache, queue = Cache(), WorkQueue()
    raw = named("tune")
    cache.record(raw)
    gone = {**raw, "metadata": {**raw["metadata"], "resourceVersion": version}}
    lists = Lists([[raw]], between=lambda: cache.record(gone, deleted=True))

    async def swept():
        await sweep(cache, queue, lists, ())  # type: ignore[arg-type]
        lists.between = lambda: None
        cache.record(raw)  # The answer to a write that was under way.

    asyncio.run(swept())
    assert list(cache.jobs()) == []


def test_what_gets_our_label_again_after_it_had_lost_it_is_taken_again():
    cache = Cache()
    raw = raw_attempt()
    cache.record(raw_job(started()))
    cache.record(raw)
    for version, deleted in (("4", True), ("6", False)):
        cache.record({**raw, "metadata": {**raw["metadata"], "resourceVersion": version}}, deleted=deleted)
    assert cache.newest_attempt(KEY) is not None


def _events(*objects):
    return [json.dumps({"type": "MODIFIED", "object": one}).encode() for one in objects]


def test_kopf_reads_every_line_that_can_be_read_and_none_that_cannot():
    deep = json.dumps(raw_job()).replace('"s3://bucket/prefix"', "[" * 5000 + "]" * 5000)
    lines = [
        *_events(raw_job()), b'{"type": "ADDED", "object": ' + deep.encode() + b"}", b"\xff\xfe", b"{", b"", b"null",
        b"7", b'{"type": "ADDED"}', *_events({"kind": "FineTuneJob"}, [], {**raw_job(), "spec": [1]}, "x"),
        b'{"type": "BOOKMARK", "object": {"kind": "Pod", "metadata": {"resourceVersion": "9"}}}',
        *_events({**raw_job(), "spec": {"engine": "\ud800", "x": 1}}), b'{"type": "DELETED", "object": '
        + json.dumps(raw_job()).replace('"generation": 1', '"generation": ' + "9" * 5000).encode() + b"}"]
    body = b"\n".join(lines)
    listed = json.dumps({"kind": "FineTuneJobList", "items": [raw_job(), "HERE", 7, {}]}).replace('"HERE"', deep)

    async def serve(request):
        return web.Response(body=body if request.path == "/watch" else listed.encode(), content_type="application/json")

    async def read():
        app = web.Application()
        app.router.add_get("/{what}", serve)
        runner = web.AppRunner(app)
        await runner.setup()
        await (site := web.TCPSite(runner, "127.0.0.1", 0)).start()
        address = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"  # type: ignore[attr-defined]
        async with aiohttp.ClientSession(response_class=responses(items.append)) as http:
            async with http.get(f"{address}/watch") as answer:
                found = [json.loads(piece) async for piece in answer.content.iter_chunked(64)]
            async with http.get(f"{address}/list") as answer:
                assert (await answer.json())["items"] == []
        await runner.cleanup()
        return found

    items = []
    before = UNREADABLE._value.get()
    found = asyncio.run(read())
    assert [one["type"] for one in found] == ["MODIFIED", "ADDED", "BOOKMARK", "MODIFIED", "DELETED"]
    assert len(items) == 2
    assert UNREADABLE._value.get() - before == len(lines) - len(found) - 1 + 2, "but for the empty line"
