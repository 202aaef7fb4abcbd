"""The operator's log lines. No cluster."""

from __future__ import annotations

import json
import logging
import sys

from finetune_operator.telemetry.logs import JsonLines


def line(**known):
    return json.loads(JsonLines().format(logging.makeLogRecord({
        "name": "finetune_operator.cluster", "levelname": "WARNING", "msg": "%s/%s: é", "args": ("team", "tune"),
        "created": 1_767_268_800.25, **known})))


def test_a_line_has_the_time_in_utc_and_what_was_said():
    assert line() == {"time": "2026-01-01T12:00:00.250+00:00", "level": "warning",
                      "logger": "finetune_operator.cluster", "message": "team/tune: é"}


def test_a_line_about_a_job_names_job_and_attempt_where_they_are_known():
    assert line(job="team/tune", attempt=2).items() >= {("job", "team/tune"), ("attempt", 2)}
    assert "attempt" not in line(job="team/tune", attempt=None)


def test_other_libraries_fields_are_left_out():
    assert line(settings=object(), token="secret").keys() == line().keys()


def test_an_exception_stands_in_its_own_field_of_one_line():
    try:
        raise ValueError("two\nlines")
    except ValueError:
        written = line(exc_info=sys.exc_info())
    assert written["exception"].startswith("Traceback")
    assert written["exception"].endswith("ValueError: two\nlines")
