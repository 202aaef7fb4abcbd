"""The ranking of an experiment on a terminal."""

from __future__ import annotations

import io
from decimal import Decimal

from finetune_api.experiment.status import ExperimentRun, FineTuneExperimentStatus, RankedVariant, RunPhase
from finetune_trainer.report.experiment.terminal import show_experiment
from rich.console import Console

from tests.api.experiments import experiment


def finished(*names, spread=None):
    return FineTuneExperimentStatus(
        runs=tuple(ExperimentRun(
            variant=name, job=f"compare-{name}", seed=0, phase=RunPhase.SUCCEEDED, reason="Succeeded", before=0.0,
            after=0.9333, cost=Decimal("12.3456"), hours=12.5, tokens_per_second=1389.0, peak_bytes=20 * 2**30)
            for name in names),
        ranking=tuple(RankedVariant(
            rank=place, variant=name, score=0.9333, spread=spread, low=0.8667, high=0.9833,
            cost=Decimal("12.3456"), verdict="second")
            for place, name in enumerate(names, 1)))


def shown(status, width=80):
    file = io.StringIO()
    show_experiment(Console(file=file, width=width), experiment().resource, status)
    lines = file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert "…" not in file.getvalue()
    return lines


def row(lines, name):
    (line,) = (line for line in lines if f" {name} " in line)
    return line.split()


CELLS = ["0.000", "0.933", "0.867–0.983", "12.3456", "12:30", "h", "1389", "20.00", "GiB"]


def test_the_table_of_a_ranking_is_whole_on_a_terminal_of_eighty_columns():
    lines = shown(finished("qlora", "prefix-tuning"))
    assert row(lines, "qlora") == ["1", "qlora", *CELLS]
    assert row(lines, "prefix-tuning") == ["2", "prefix-tuning", *CELLS]


def test_long_names_leave_out_columns_and_cut_none():
    name = "low-rank-of-4-bit-ab"
    assert row(shown(finished(name, "b")), name) == ["1", name, *CELLS[:6], "20.00", "GiB"], "no tokens/s"
    assert row(shown(finished(name, "b"), 100), name) == ["1", name, *CELLS]
    swept = f"{name}-124190"
    assert row(shown(finished("b", swept, spread=0.0123)), swept) == [
        "2", swept, "0.000", "0.933", "±", "0.012", *CELLS[2:6]]
