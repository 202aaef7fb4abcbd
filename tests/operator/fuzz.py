"""Random jobs, statuses and children through observe, plan and status: none raises, and each has a condition.

`python -m tests.operator.fuzz --cases 10000 --seed 1` runs the long form; the suite runs a short one. What is made
follows the CustomResourceDefinition, so that fields which are added later are tried too.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import jsonschema
from finetune_api.definition.crd import crd
from finetune_api.messages import Outcome, ProgressMessage, Stage
from finetune_api.rules import RULES, SMALLEST_SPEC, STORED_RULES, merge_patch
from finetune_api.status import Progress
from finetune_operator import names
from finetune_operator.cluster.apiserver.decoding import decode, usable
from finetune_operator.cluster.cache.cache import Cache, Polled
from finetune_operator.cluster.reconcile.status_document import dump_status
from finetune_operator.decide.plan import plan
from finetune_operator.decide.stages.undecidable import enforce_budget
from finetune_operator.telemetry.metrics import JobCollector

from tests.api.jobs import nested
from tests.operator.objects import (
    KEY,
    NOW,
    SETTINGS,
    UID,
    attempt,
    raw_attempt,
    raw_check,
    raw_check_pod,
    raw_job,
    raw_pod,
    result,
    started,
)

_SCHEMA = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
STATUS = jsonschema.Draft202012Validator(_SCHEMA["status"])
_TEXTS = ("", "a", "Running", "cpu", "nvidia-l4", "owner/name", "s3://bucket/key", "pvc://claim/x", "hf://owner/name",
          "https://host/rows.jsonl", "https://[::1", "http://[abc", "https://host:99999/x", "1", "0.5", "1e30", "-1",
          "9" * 40, "9" * 5000, "90s", "1h30m", "99999999h", "16Gi", "\x00", "\u202e", "\ud800", "🙂" * 50, "x" * 5000,
          '{"type": "object"}', "{" * 2000, '{"a":' * 80 + "1" + "}" * 80, "{{ q }}", "0" * 64)
_TIMES = ("2026-01-01T12:00:00Z", "2026-01-01T11:00:00.123456789Z", "2026-01-01T13:00:00+05:00", "2025-12-31T23:59:60Z",
          "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "2026-01-01T00:00:00", "2026-01-01", "soon", "")
_NUMBERS = (0, 1, 2, 3, 10, 100, -1, 2**31, 2**63 - 1, -(2**63), 10**30, 0.0, 0.5, 1.5, -0.1, 1e-300, 1e300)
_REASONS = ("", "BackoffLimitExceeded", "Unschedulable", "OOMKilled", "Error", "DeadlineExceeded", "ErrImagePull",
            "ImagePullBackOff", "CreateContainerConfigError", "Preempted", "Stopping", "Running",
            "UnexpectedAdmissionError")
_CODES = (0, 1, 64, 65, 66, 69, 70, 71, 73, 75, 130, 137, 143, 255, -1, 2**31)


class Maker:
    """Makes random objects from one seed."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)

    def sometimes(self, share: float) -> bool:
        """True in that share of the cases."""
        return self.chance.random() < share

    def of(self, schema: dict[str, Any], share: float = 0.5, depth: int = 0) -> Any:
        """A value that mostly has the schema's types, and now and then none of them."""
        if self.sometimes(0.02):
            return self.chance.choice([None, True, [], {}, [[]], {"a": {"b": 1}}, *_TEXTS, *_NUMBERS])
        if "enum" in schema:
            return self.chance.choice(schema["enum"])
        kind = schema.get("type")
        if kind == "object":
            known = schema.get("properties", {})
            made = {name: self.of(below, share, depth + 1) for name, below in known.items()
                    if name in schema.get("required", ()) or self.sometimes(share)}
            if isinstance(others := schema.get("additionalProperties"), dict):
                made |= {self.chance.choice(_TEXTS)[:20]: self.of(others) for _ in range(self.chance.randrange(3))}
            return made
        if kind == "array":
            return [self.of(schema["items"], share, depth + 1) for _ in range(self.chance.choice((0, 1, 1, 2, 12)))]
        if kind in ("integer", "number"):
            return self.chance.choice([number for number in _NUMBERS if kind == "number" or isinstance(number, int)])
        if kind == "boolean":
            return self.sometimes(0.5)
        if schema.get("format") == "date-time":
            return self.chance.choice(_TIMES)
        return self.chance.choice(_TEXTS)

    def spec(self) -> dict[str, Any]:
        """A spec: mostly one that keeps some rule, changed in a few places."""
        spec: dict[str, Any] = copy.deepcopy(dict(SMALLEST_SPEC))
        if self.sometimes(0.7):
            spec["runPolicy"] = {"preflight": "Skip"}
        for rule in self.chance.sample((*RULES, *STORED_RULES), self.chance.randrange(3)):
            spec = merge_patch(spec, nested(rule.section, self.chance.choice([rule.accepts, rule.refuses]))["spec"])
        spec = merge_patch(spec, self.chance.choice([
            {}, {}, {"budget": {"maxCost": "1", "hourlyRate": "2", "maxDuration": "1h"}}, {"compute": {"nodes": 3}},
            {"runPolicy": {"suspend": True}}, {"compute": {"queueName": "queue"}}, {"compute": {"accelerator": "cpu"}},
            {"runPolicy": {"ttlSecondsAfterFinished": self.chance.choice((0, 1, 2**31 - 1))}}]))
        if self.sometimes(0.4):
            section, below = self.chance.choice(list(_SCHEMA["spec"]["properties"].items()))
            made = self.of(below, 0.2)
            spec[section] = merge_patch(spec.get(section) or {}, made) if isinstance(made, dict) and isinstance(
                spec.get(section), dict) else made
        return spec

    def status(self) -> Any:
        """A status: none, one of a started job with random records, or anything that the schema allows and more."""
        if self.sometimes(0.25):
            return {}
        if self.sometimes(0.3):
            return self.of(_SCHEMA["status"], self.chance.choice((0.1, 0.5, 0.9)))
        records = tuple(attempt(number, self.chance.choice(_REASONS) or "Error", self.seconds(),
                                self.chance.choice([None, self.seconds()]), lastStep=self.chance.randrange(5))
                        for number in range(1, self.chance.choice((1, 2, 3, 12))))
        status = dump_status(started(attempts=records))
        for name, below in _SCHEMA["status"]["properties"].items():
            if self.sometimes(0.08):
                status[name] = self.of(below, 0.5)
        if self.sometimes(0.1) and isinstance(status.get("cost"), dict):
            status["cost"]["earlierSeconds"] = self.chance.choice(_NUMBERS)
        if self.sometimes(0.15):
            status["completionTime"] = self.chance.choice(_TIMES)
        return status

    def seconds(self) -> float:
        """A time in seconds from NOW."""
        return self.chance.choice((-1e6, -7300, -400, -61, -1, 0, 1, 30, 300, 1e4, 1e8))

    def children(self) -> Iterator[dict[str, Any]]:
        """Jobs, pods and what else carries our labels; some of it is forged."""
        for number in self.chance.sample((0, 1, 2, 3, 99, 999_999_999), self.chance.choice((0, 1, 1, 2))):
            known: dict[str, Any] = {
                "ended": self.chance.choice((None, None, "Complete", "Failed")), "at": self.seconds(),
                "suspended": self.sometimes(0.2), "deleting": self.sometimes(0.2)}
            check = self.sometimes(0.3)
            yield self.spoilt((raw_check if check else raw_attempt)(number, **known))
            for index in range(self.chance.choice((0, 1, 1, 1, 3))):
                yield self.spoilt((raw_check_pod if check else raw_pod)(number, index=index, **self.pod()))
        if self.sometimes(0.3):
            kind = self.chance.choice(("ConfigMap", "Service", "NetworkPolicy"))
            metadata = {"namespace": KEY[0], "name": f"{KEY[1]}-1", "uid": "other", "resourceVersion": "3",
                        "creationTimestamp": "2026-01-01T12:00:00Z", "labels": names.labels(KEY[1], UID, 1)}
            yield self.spoilt({"kind": kind, "metadata": metadata,
                               "spec": {"clusterIP": self.chance.choice((None, "10.0.0.1"))}})

    def pod(self) -> dict[str, Any]:
        """What a pod may look like."""
        said = self.chance.choice(["", "{", "\ud800", '{"outcome": 1}', *(
            result(outcome, checkpointStep=self.chance.randrange(3)) for outcome in self.chance.sample(
                list(Outcome), 2))])
        return {"scheduled": self.chance.choice((None, self.seconds())), "running": self.sometimes(0.3),
                "waiting": (self.chance.choice(_REASONS), "why") if self.sometimes(0.2) else None,
                "exit_code": self.chance.choice((None, *_CODES)), "said": said, "oom": self.sometimes(0.1),
                "at": self.seconds(), "unschedulable": "none fits" if self.sometimes(0.1) else None,
                "disruption": "evicted" if self.sometimes(0.1) else None, "leaving": self.sometimes(0.2),
                "image_id": self.chance.choice(("", "registry/x@sha256:1")), "overdue": self.sometimes(0.1)}

    def spoilt(self, raw: dict[str, Any]) -> dict[str, Any]:
        """The same, now and then with labels, annotations and times that nobody expects."""
        metadata = raw["metadata"]
        if self.sometimes(0.1):
            metadata["labels"][self.chance.choice(list(metadata["labels"]))] = self.chance.choice(_TEXTS)
        if self.sometimes(0.1):
            metadata["annotations"] = {self.chance.choice((names.INDEX_ANNOTATION, names.HASH_ANNOTATION)):
                                       self.chance.choice(_TEXTS)}
        if self.sometimes(0.1):
            metadata["uid"] = f"{self.chance.random()}"
        for condition in (raw.get("status") or {}).get("conditions", ()):
            if self.sometimes(0.1):
                condition["lastTransitionTime"] = self.chance.choice(_TIMES)
            if self.sometimes(0.1):
                condition |= {"reason": self.chance.choice(_REASONS), "status": self.chance.choice(
                    ("True", "False", "Unknown"))}
        return raw

    def progress(self) -> ProgressMessage:
        """What a trainer, or a pod that was taken over, answers."""
        number = self.chance.choice
        steps = Progress(step=number((0, 1, -1, 10**30)), total_steps=number((0, 4, -4)),
                         percent=number((0, 50, 10**9)), loss=number((None, 0.5, float("nan"), float("inf"))),
                         estimated_completion_time=number((None, NOW, NOW.replace(year=2199), NOW.replace(year=1901))))
        return ProgressMessage(stage=number(list(Stage)), progress=number((None, steps)),
                               resumed_from_step=number((0, 2, -2)))


def one_case(seed: int) -> str:
    """Run the passes of one job; the reason that it ends with.

    Raises:
        AssertionError: the job has no condition, or the apiserver would refuse its status.
    """
    make = Maker(seed)
    job = raw_job(make.status(), deleting=make.sometimes(0.03), generation=make.chance.choice((1, 2, 7)))
    job["spec"] = make.spec()
    cache = Cache()
    for raw in (job, *make.children()):
        # As it comes over the wire; a spec or a status of another type is no object that an apiserver stores.
        if (short := usable(decode(json.dumps(raw).encode()))) is not None:
            cache.record(short)
    if make.sometimes(0.3):
        cache.polled[UID] = Polled(make.chance.choice((1, 2)), NOW + timedelta(seconds=make.seconds()),
                                   make.chance.choice([None, make.progress()]))
    told = ""
    for seconds in (0, 1, 90, 10_000):
        view = cache.view(KEY)
        if view is None:
            return "not readable"
        observation, now = cache.around(view), NOW + timedelta(seconds=seconds)
        decided = plan(observation, SETTINGS, now)
        if decided.needs_earlier_run:
            decided = plan(replace(observation, earlier_run={}), SETTINGS, now)
        enforce_budget(observation, SETTINGS, now)
        list(JobCollector(lambda: [raw for _, raw in cache.jobs()]).collect())
        status = dump_status(decided.status)
        STATUS.validate(status)
        json.dumps([status, *(getattr(one, "manifest", None) for one in decided.actions)], allow_nan=False)
        assert len(decided.actions) < 100, "actions without end"
        told = next((one["reason"] for one in status.get("conditions", ())
                     if one["type"] == "Progressing" and one["message"]), told)
        job = {**job, "status": status}
        job["metadata"] = {**job["metadata"], "resourceVersion": str(int(job["metadata"]["resourceVersion"]) + 1)}
        cache.record(usable(job) or job)
    finished = view.status.completion_time is not None
    assert told or view.deleting or finished, f"no sentence: {status}"
    return told or "finished before"


def run(cases: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Run many cases; how they ended, and what went wrong, each with its seed."""
    ended: Counter[str] = Counter()
    wrong: list[str] = []
    for number in range(seed, seed + cases):
        try:
            ended[one_case(number)] += 1
        except Exception:
            wrong.append(f"seed {number}: {traceback.format_exc(limit=-4)}")
    return ended, wrong


def main() -> int:
    """Run the long form; 1 where anything went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    ended, wrong = run(arguments.cases, arguments.seed)
    print(*wrong[:20], sep="\n")  # noqa: T201
    print(f"{sum(ended.values())} of {arguments.cases} have a condition: {dict(ended.most_common())}")  # noqa: T201
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
