"""What the operator costs: latency, requests, throughput and memory, against plain Jobs on the same control plane.

A real control plane; the nodes are kwok's, whose pods succeed after a second with a trainer's result. Plain Jobs
of the same shape, run just before, are the named peer: nothing that makes a pod for each job can be faster.
"""

from __future__ import annotations

import argparse
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
from finetune_api.messages import Outcome, Result
from finetune_api.rules import SMALLEST_SPEC
from finetune_api.status import PublishedAdapter

from tests.cluster import kwok
from tests.cluster.control_plane import ControlPlane
from tests.cluster.waiting import wait_for
from tests.operator.api import Api
from tests.operator.operators import Operator

CRD = Path(__file__).parents[1] / "crds" / "finetune.dev_finetunejobs.yaml"
RESULT = Result(outcome=Outcome.SUCCEEDED, message="trained", step=4, total_steps=4, adapter=PublishedAdapter(
    uri="s3://bucket/prefix/x", sha256="0" * 64, size_bytes=1, base_model="owner/name"))
CAPACITY = {"cpu": "100000", "memory": "1000Ti", "pods": "10000", "nvidia.com/gpu": "10000"}
CLIENTS = 8
LATENCY_JOBS = 100
IDLE_PASSES = 100


def finetune_job(name: str) -> dict:
    """The smallest job, without preflight."""
    return {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob", "metadata": {"name": name},
            "spec": {**SMALLEST_SPEC, "runPolicy": {"preflight": "Skip"}}}


def plain_job(name: str) -> dict:
    """A Job as the operator makes it, without an operator."""
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": {
        "backoffLimit": 0, "completionMode": "Indexed", "completions": 1, "parallelism": 1,
        "template": {"spec": {"restartPolicy": "Never", "containers": [
            {"name": "trainer", "image": "registry.invalid/trainer:1",
             "resources": {"limits": {"nvidia.com/gpu": "1"}}}]}}}}


@contextmanager
def watched(plane: ControlPlane, api: Api, path: str, note: Callable[[dict], None]) -> Iterator[None]:
    """Hand every event of a watch to `note`, in a thread."""
    version = api("GET", f"{path}?limit=1")["metadata"]["resourceVersion"]
    stop = threading.Event()
    connection = Api(plane)

    def follow() -> None:
        try:
            with connection._http.stream("GET", f"{path}?watch=true&resourceVersion={version}", timeout=None) as lines:
                for line in lines.iter_lines():
                    note(json.loads(line))
                    if stop.is_set():
                        return
        except httpx.HTTPError:
            if not stop.is_set():
                raise

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()


def through(plane: ControlPlane, api: Api, kind: str, make: Callable[[str], dict], count: int,
            is_done: Callable[[dict], bool]) -> tuple[float, str]:
    """Seconds from the first creation until `count` objects are done, and their namespace."""
    namespace = plane.namespace("load")
    done: set[str] = set()

    def note(event: dict) -> None:
        if event["type"] != "DELETED" and is_done(event["object"]):
            done.add(event["object"]["metadata"]["name"])

    with watched(plane, api, api.path(kind, namespace), note), ThreadPoolExecutor(CLIENTS) as pool:
        began = time.monotonic()
        list(pool.map(lambda number: api.create(kind, namespace, make(f"job-{number}")), range(count)))
        wait_for(lambda: len(done) == count, f"{count} {kind}s to be done", 120 + count)
        return time.monotonic() - began, namespace


def job_done(job: dict) -> bool:
    """Whether a Job is complete."""
    return any(one["type"] == "Complete" and one["status"] == "True" for one in job["status"].get("conditions", []))


def latency(plane: ControlPlane, api: Api, gap: float) -> list[float]:
    """Seconds from apply to the trainer's Job, as a client sees both, of each of the jobs; sorted."""
    namespace = plane.namespace("latency")
    sent: dict[str, float] = {}
    seen: dict[str, float] = {}

    def note(event: dict) -> None:
        if event["type"] == "ADDED":
            seen[event["object"]["metadata"]["labels"]["finetune.dev/job"]] = time.monotonic()

    def send(name: str) -> None:
        sent[name] = time.monotonic()
        api.create("FineTuneJob", namespace, finetune_job(name))

    names = [f"job-{number}" for number in range(LATENCY_JOBS)]
    with watched(plane, api, api.path("Job", namespace), note), ThreadPoolExecutor(CLIENTS) as pool:
        for name in names:
            pool.submit(send, name)
            time.sleep(gap)
        wait_for(lambda: len(seen) == len(names), "the trainers' Jobs", 120)
    wait_for(lambda: all(job.get("status", {}).get("phase") == "Succeeded"
                         for job in api.list("FineTuneJob", namespace)), "the jobs to end", 120)
    return sorted(seen[name] - sent[name] for name in names)


def resident_mib(pid: int) -> float:
    """Resident memory of a process, in MiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def cpu_seconds(pid: int) -> float:
    """CPU time of a process, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def idle_requests(api: Api, operator: Operator, namespace: str) -> tuple[int, float]:
    """Passes over finished jobs that news without meaning caused, and the requests that these made."""
    ok = ("finetune_operator_reconciles_total", frozenset({("result", "ok")}))
    passes, requests = operator.metrics()[ok], operator.requests()
    for number in range(IDLE_PASSES):
        api.patch("FineTuneJob", namespace, f"job-{number}", {"metadata": {"labels": {"news": "1"}}})
    wait_for(lambda: operator.metrics()[ok] >= passes + IDLE_PASSES, "the passes", 60)
    return int(operator.metrics()[ok] - passes), operator.requests() - requests


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1000)
    count: int = parser.parse_args().jobs
    plane = ControlPlane()
    try:
        plane.start()
        plane.kubectl("apply", "--server-side", "-f", CRD)
        plane.kubectl("wait", "--for=condition=Established", "crd/finetunejobs.finetune.dev", "--timeout=30s")
        kwok.play(plane, nodes=2, capacity=CAPACITY, termination_message=RESULT.to_bytes().decode())
        measure(plane, Api(plane), count)
    finally:
        plane.stop()


def measure(plane: ControlPlane, api: Api, count: int) -> None:
    """Run every measurement."""
    plain, _ = through(plane, api, "Job", plain_job, count, job_done)
    print(f"{count} plain Jobs            {plain:7.1f} s  {count / plain:6.1f} jobs/s", flush=True)
    operator = Operator(plane, identity="measured", settings={"progressInterval": "5s"})
    wait_for(lambda: operator.metrics() and api.list("FineTuneJob", "default") == [], "the operator", 30)
    before = operator.requests("POST", "PUT", "PATCH", "DELETE")
    ours, namespace = through(plane, api, "FineTuneJob", finetune_job, count,
                              lambda job: job.get("status", {}).get("phase") == "Succeeded")
    writes = (operator.requests("POST", "PUT", "PATCH", "DELETE") - before) / count
    print(f"{count} FineTuneJobs          {ours:7.1f} s  {count / ours:6.1f} jobs/s  "
          f"{plain / ours:.2f} of the plain Jobs' rate (goal 0.5)", flush=True)
    print(f"operator                  {resident_mib(operator.process.pid):7.1f} MiB resident (goal 200), "
          f"{cpu_seconds(operator.process.pid):.1f} CPU seconds, {writes:.1f} API writes per job (goal 12)", flush=True)
    passes, requests = idle_requests(api, operator, namespace)
    print(f"{passes} idle passes           {requests:7.0f} requests (goal 0)", flush=True)
    for label, gap in (("five a second", 0.2), ("all at once", 0.0)):
        times = latency(plane, api, gap)
        print(f"apply to Job, {LATENCY_JOBS} jobs {label}: median {times[len(times) // 2] * 1000:.0f} ms, p99 "
              f"{times[int(len(times) * 0.99) - 1] * 1000:.0f} ms (goal 300)", flush=True)
    operator.process.stop(grace_seconds=20)


if __name__ == "__main__":
    main()
