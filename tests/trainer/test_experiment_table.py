"""The ranking of an experiment on a terminal."""

from __future__ import annotations

import io
from decimal import Decimal

from finetune_api.experiment.status import ExperimentRun, FineTuneExperimentStatus, RankedVariant, RunPhase
from finetune_trainer.report.experiment.terminal import show_experiment
from rich.console import Console

from tests.api.experiments import experiment


def test_the_table_of_a_ranking_is_whole_on_a_terminal_of_eighty_columns():
    names = ("qlora", "prefix-tuning")
    status = FineTuneExperimentStatus(
        runs=tuple(ExperimentRun(
            variant=name, job=f"compare-{name}", seed=0, phase=RunPhase.SUCCEEDED, reason="Succeeded", before=0.0,
            after=0.9333, cost=Decimal("12.3456"), hours=12.5, tokens_per_second=1389.0, peak_bytes=20 * 2**30)
            for name in names),
        ranking=tuple(RankedVariant(
            rank=place, variant=name, score=0.9333, low=0.8667, high=0.9833, cost=Decimal("12.3456"), verdict="second")
            for place, name in enumerate(names, 1)))
    shown = io.StringIO()
    show_experiment(Console(file=shown, width=80), experiment().resource, status)
    lines = shown.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in shown.getvalue()
    for name in names:
        (line,) = (line for line in lines if f" {name} " in line)
        assert all(cell in line for cell in ("0.933", "0.867–0.983", "12.3456", "1389", "20.0"))
