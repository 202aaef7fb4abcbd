"""The report of an experiment: from what two tiny jobs have really published to a page that a browser shows."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from itertools import combinations
from pathlib import Path
from statistics import NormalDist
from typing import Any

import pytest
import yaml
from finetune_api.experiment.ranking import Ranking
from finetune_api.experiment.reported import ReportedExperiment
from finetune_api.experiment.spec import RankBy
from finetune_api.messages import RESULT_BYTES, Outcome
from finetune_api.spec.evaluation import Metric
from finetune_api.values.money import rounded_amount
from finetune_trainer.__main__ import main
from finetune_trainer.clock import SystemClock
from finetune_trainer.evaluation.comparison import Difference
from finetune_trainer.report.experiment.charts import loss_curves
from finetune_trainer.report.experiment.facts import ExperimentFacts, variant_lines
from finetune_trainer.report.experiment.marks import PLOT_WIDTHS, Labelled, place_labels
from finetune_trainer.report.experiment.page import gain_words, render_experiment
from finetune_trainer.report.experiment.take_home import take_home
from finetune_trainer.run.experiment.report import read_finished, write_report

from tests.browser import shown_at
from tests.models import save_tiny_model, tiny_job, write_rows
from tests.trainer.endpoints import endpoint, said
from tests.trainer.pages import Walk

pytestmark = pytest.mark.slow

SECONDS = 300
ATTACK = '</div><script>alert("x")</script><img src=x onerror=alert(1)>'
IA3 = {"method": {"type": "Additive", "additive": {"technique": "IA3"}}}


@dataclass(frozen=True)
class Finished:
    """An experiment that has been run.

    Attributes:
        folder: where it was run.
        home: the folder of its status and its report.
        output: what `finetune run` printed.
        facts: what its report shows.
    """

    folder: Path
    home: Path
    output: str
    facts: ExperimentFacts


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Finished:
    """Two methods on the tiny model, by `finetune run`, with a reference model that attacks the page."""
    folder = tmp_path_factory.mktemp("experiment")
    save_tiny_model(folder / "model")
    write_rows(folder / "rows.jsonl")
    with endpoint(lambda body, number, handler: (200, said(ATTACK))) as (url, _):
        job = tiny_job(folder, budget={"hourlyRate": 36}, evaluation={"reference": {"url": url, "model": "big"}})
        document = {"apiVersion": job["apiVersion"], "kind": "FineTuneExperiment", "metadata": {"name": "compare"},
                    "spec": {"template": {"spec": job["spec"]}, "rankBy": {"metric": "loss"}, "budget": {"maxCost": 50},
                             "variants": [{"name": "lora"}, {"name": "ia3", "patch": IA3}]}}
        path = folder / "experiment.yaml"
        path.write_text(yaml.safe_dump(document))
        ended = subprocess.run([sys.executable, "-m", "finetune_cli", "run", str(path)], capture_output=True, text=True,
                               timeout=SECONDS, check=False, env={**os.environ, "COLUMNS": "200"})
    assert ended.returncode == 0, ended.stdout + ended.stderr
    home = folder / "out/default/compare"
    written = write_report(*read_finished(home), SystemClock())
    assert written.missing == ()
    return Finished(folder, home, ended.stdout, written.facts)


def with_variants(facts: ExperimentFacts, count: int) -> ExperimentFacts:
    """The same experiment with so many variants: copies of the two, with other names, scores, costs and memory."""
    ranking, runs, results, compared = [], [], {}, []
    for place in range(count):
        source = place % 2
        ranked, name = facts.status.ranking[source], f"variant-{place:02d}-of-many"
        run = next(one for one in facts.status.runs if one.variant == ranked.variant)
        score = ranked.score + 0.01 * place
        ranking.append(ranked.model_copy(update={
            "rank": place + 1, "variant": name, "score": score, "low": score - 0.2, "high": score + 0.3,
            "cost": rounded_amount(Decimal(1 + place * 7 % 5))}))
        runs.append(run.model_copy(update={"variant": name, "job": f"job-{place}",
                                           "peak_bytes": 10**9 + place * 10**6}))
        results[f"job-{place}"] = facts.results[run.job]
        compared.append(facts.comparison.variants[source].model_copy(update={"variant": name}))
    status = facts.status.model_copy(update={"ranking": tuple(ranking), "runs": tuple(runs), "winner": None})
    return replace(facts, status=status, results=results,
                   comparison=facts.comparison.model_copy(update={"variants": tuple(compared)}))


def test_a_run_writes_the_page_beside_its_status_and_names_it_at_its_end(finished):
    assert finished.output.splitlines()[-2:] == [f"report      {finished.home}/report.html",
                                                 f"status      {finished.home}/experiment.json"]
    status = json.loads((finished.home / "experiment.json").read_text())["status"]
    assert status["report"] == f"file://{finished.home}/report.html"
    walk = Walk((finished.home / "report.html").read_text())
    words = walk.words()
    assert finished.facts.status.conclusion in words
    for line in variant_lines(finished.facts.status):
        assert f"{line.ranked.rank} {line.name}" in words
        assert f"{line.cost:f}" in words
        assert line.adapters[0] in words
    assert "LoRA" in words and "IA3" in words
    before = re.findall("before training [✓✗]", words)
    assert len(before) == words.count("reference model ✗ wrong") == 8, "one base model, eight rows"


def test_the_page_says_whether_training_helped(finished):
    facts = finished.facts
    assert set(facts.gains) == {line.name for line in variant_lines(facts.status)} == {"lora", "ia3"}
    words = Walk(render_experiment(facts)).words()
    for line in variant_lines(facts.status):
        gain = facts.gains[line.name]
        assert gain.value == pytest.approx(line.ranked.score - line.before, abs=2e-6)
        assert f"{line.ranked.rank} {line.name} : {gain_words(facts, gain)}" in words
    clear = Difference(-0.25, -0.3, -0.2, 0.001, 8)
    assert gain_words(facts, clear) == ("better than before training: -0.25 (interval of the difference -0.3 to -0.2, "
                                        "p 0.001)"), "a loss"
    assert gain_words(facts, replace(clear, value=0.25)).startswith("worse than before training: +0.25")
    assert gain_words(facts, replace(clear, p_value=0.5)).startswith("not clearly different from before training: "
                                                                     "-0.25")
    assert "What training has changed" not in Walk(render_experiment(replace(facts, gains={}))).words()


def test_the_page_loads_nothing_and_escapes_what_models_and_rows_say(finished):
    page = render_experiment(finished.facts)
    walk = Walk(page)
    assert "script" not in walk.tags and "img" not in walk.tags
    assert "<script" not in page and ATTACK in "".join(walk.text)
    assert not [value for _, name, value in walk.attributes if name in ("src", "srcset", "data", "action") or
                name.startswith("on") or (name == "href" and value != "data:,")]
    assert "url(" not in page and "@import" not in page


def test_the_two_sentences_say_who_won_or_what_would_settle_it_and_the_money(finished):
    facts = finished.facts
    first, money = take_home(facts)
    assert first.startswith(facts.status.conclusion)
    spent = facts.status.cost.spent
    assert spent > 0
    assert money.startswith(f"All jobs together cost {spent:f} USD of a budget of 50 USD; ")
    best, other = facts.comparison.variants

    def said_of(**compared: object) -> str:
        unclear = other.model_copy(update={"compared_rows": 100, "needed_rows": 6, **compared})
        return take_home(replace(facts, status=facts.status.model_copy(update={"winner": None}),
                                 comparison=facts.comparison.model_copy(update={"variants": (best, unclear)})))[0]

    half_as_far = 2 * NormalDist().cdf(NormalDist().inv_cdf(0.025) / 2)
    assert "about 400 held-out rows instead of 100 would settle it" in said_of(p_value=half_as_far)
    assert "about 6 held-out rows instead of 2 would settle it" in said_of(p_value=0.06, compared_rows=2)
    assert "scores the same: choose by cost" in said_of(p_value=1.0)
    assert "give all variants the same held-out rows" in said_of(p_value=None, difference_low=None)
    won = take_home(replace(facts, status=facts.status.model_copy(update={"winner": best.variant})))[0]
    assert won == facts.status.conclusion
    free = facts.status.model_copy(update={"cost": facts.status.cost.model_copy(update={"spent": Decimal(0)})})
    assert take_home(replace(facts, status=free))[1].startswith("Nothing was charged")


@pytest.mark.parametrize("count", [1, 2, 6, 40])
def test_every_chart_shows_its_variants_and_says_so_in_words(finished, count):
    walk = Walk(render_experiment(with_variants(finished.facts, count)))
    charts = {value.partition("-")[0] for _, name, value in walk.attributes if name == "aria-labelledby" and
              value.endswith("-words")}
    assert charts == {"scores", "losses"} | ({"cost", "memory"} if count > 1 else set())
    marks = [value for tag, name, value in walk.attributes if tag == "svg" and name == "class" and
             value.startswith("mark ")]
    assert len(marks) == 2 * min(count, 6) + (2 * count if count > 1 else 0)
    curves = [value for tag, name, value in walk.attributes if tag == "polyline" and name == "points"]
    assert len(curves) == min(count, 6) and all(len(points.split()) > 1 for points in curves)
    assert ("The best 6 of 40 variants are shown." in walk.words()) == (count == 40)


@pytest.mark.parametrize("count", [2, 6, 40])
def test_labels_overlap_nothing_at_any_width(count):
    height = 300.0
    points = [Labelled(0.1 + 0.8 * (place * 7 % count) / count, 0.2 + 0.6 * (place * 3 % count) / count,
                       (f"{place + 1} a-variant-of-twenty", str(place + 1))) for place in range(count)]
    labels = place_labels(points, height)
    assert len(labels) >= min(count, 6)
    assert points[0] is labels[0].point, "the best one first"
    for width in (*PLOT_WIDTHS, 237.0, 500.0, 1000.0):
        boxes = [label.box(width, height) for label in labels]
        assert all(box[0] >= 0 and box[1] >= 0 and box[2] <= width and box[3] <= height for box in boxes)
        for one, other in combinations(boxes, 2):
            assert not (one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3])


def test_two_points_on_one_spot_do_not_write_over_each_other():
    labels = place_labels([Labelled(0.5, 0.5, ("1 one", "1")), Labelled(0.5, 0.5, ("2 two", "2"))], 300.0)
    assert len({(label.dx, label.dy) for label in labels}) == len(labels) > 0


def test_without_prices_quality_stands_against_time_and_without_a_baseline_after_alone(finished):
    facts, status = finished.facts, finished.facts.status
    ranking = tuple(one.model_copy(update={"cost": Decimal(0)}) for one in status.ranking)
    runs = tuple(run.model_copy(update={"before": None, "hours": hours, "peak_bytes": None})
                 for run, hours in zip(status.runs, (0.1, 0.2), strict=True))
    words = Walk(render_experiment(replace(facts, status=status.model_copy(update={
        "ranking": ranking, "runs": runs})))).words()
    assert "against time in minutes, since nothing was charged" in words
    assert "against peak memory" not in words


def test_the_loss_after_ppo_stands_at_its_last_step_and_not_at_the_end_of_the_warm_up(finished):
    facts, (line, *_) = finished.facts, variant_lines(finished.facts.status)
    manifest = facts.results[line.jobs[0]].manifest
    later = manifest.model_copy(update={"result": manifest.result.model_copy(update={"step": 9})})
    reft = replace(facts, results={line.jobs[0]: replace(facts.results[line.jobs[0]], manifest=later)})
    widths = []
    for shown in (facts, reft):
        curve = re.search(r'<polyline class="curve style-0" points="([^"]+)"', loss_curves(shown, [line]))
        widths.append(float(curve[1].split()[-1].split(",")[0]))
    assert manifest.result.step == 6
    assert widths[1] == pytest.approx(widths[0] * 6 / 9, abs=0.1)


def test_the_reference_model_is_in_the_numbers_and_in_the_chart_of_scores(finished):
    facts = finished.facts
    spec = facts.resource.spec.model_copy(update={"rank_by": RankBy(metric=Metric.EXACT_MATCH)})
    words = Walk(render_experiment(replace(facts, resource=facts.resource.model_copy(update={"spec": spec})))).words()
    assert "lora; reference model 0.0 %" in words and words.count("reference model 0.0 %") == 2
    assert "reference model 0.0 %" not in Walk(render_experiment(facts)).words(), "a text has no loss"


def test_an_experiment_without_a_result_has_a_page_too(finished):
    facts, status = finished.facts, finished.facts.status
    failed = tuple(run.model_copy(update={"phase": "Failed", "reason": "BadData", "message": ATTACK, "after": None})
                   for run in status.runs)
    empty = status.model_copy(update={"runs": failed, "ranking": (), "winner": None, "conclusion": "No variant has a "
                                      "result."})
    walk = Walk(render_experiment(replace(facts, status=empty, results={}, created=datetime(2026, 3, 14, tzinfo=UTC),
                                          comparison=facts.comparison.model_copy(update={"variants": ()}))))
    assert "No variant has a result." in walk.words() and "Failed, BadData" in walk.words()
    assert "script" not in walk.tags


def test_the_command_of_a_pod_writes_page_and_status_and_tells_the_comparison(finished, tmp_path, capsys):
    config, log = tmp_path / "config", tmp_path / "log"
    shutil.copytree(finished.home, config, ignore=shutil.ignore_patterns("*.html"))
    told = json.loads((config / "experiment.json").read_text())
    told["metadata"] |= {"uid": "0c6f0f1e", "resourceVersion": "7", "generation": 1}  # As an apiserver shows it.
    for computed in ("ranking", "winner", "conclusion", "report"):
        told["status"].pop(computed, None)
    (config / "experiment.json").write_text(json.dumps(told))
    before = json.loads((finished.home / "experiment.json").read_text())["status"]
    (finished.home / "report.html").unlink()
    assert main(["experiment-report", "--config", str(config), "--termination-log", str(log)]) == 0
    message = ReportedExperiment.read(log.read_bytes())
    assert message.report == f"file://{finished.home}/report.html"
    assert (message.winner, message.conclusion) == (before.get("winner"), before["conclusion"])
    assert [one.model_dump(mode="json", exclude_none=True) for one in message.ranking] == before["ranking"]
    assert (finished.home / "report.html").stat().st_size > 10_000
    assert json.loads((finished.home / "experiment.json").read_text())["status"] == before
    assert log.read_text() in capsys.readouterr().out


def test_results_in_s3_are_read_and_the_page_is_written_there(finished, s3_server, s3_bucket, tmp_path):
    here, there = f"file://{finished.folder}/out", f"s3://{s3_bucket}/out"
    client = s3_server.client()
    for path in (finished.folder / "out").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            content = content.replace(here.encode(), there.encode()) if path.name == "manifest.json" else content
            client.put_object(Bucket=s3_bucket, Key=f"out/{path.relative_to(finished.folder / 'out')}", Body=content)
    told = json.loads((finished.home / "experiment.json").read_text().replace(here, there))
    told["spec"]["template"]["spec"]["output"] = {"uri": there, "s3": {"endpointUrl": s3_server.endpoint}}
    (tmp_path / "experiment.json").write_text(json.dumps(told))
    written = write_report(*read_finished(tmp_path), SystemClock())
    assert written.missing == ()
    assert written.facts.comparison == finished.facts.comparison
    assert all(result.losses and result.answers for result in written.facts.results.values())
    page = client.get_object(Bucket=s3_bucket, Key="out/default/compare/report.html")["Body"].read().decode()
    assert finished.facts.status.conclusion in Walk(page).words()
    assert written.status.report == f"{there}/default/compare/report.html"


@pytest.mark.parametrize(("written", "words"), [
    (None, "No such file"), ("[]", "no FineTuneExperiment with a status"), ("{", "no FineTuneExperiment with a status"),
    ('{"kind": "FineTuneExperiment"}', "no FineTuneExperiment with a status"),
    ('{"kind": "FineTuneExperiment", "metadata": {"name": "compare"}, "status": {}}', "spec"),
])
def test_a_configuration_that_is_none_ends_with_64(tmp_path, written, words):
    if written is not None:
        (tmp_path / "experiment.json").write_text(written)
    log = tmp_path / "log"
    assert main(["experiment-report", "--config", str(tmp_path), "--termination-log", str(log)]) == 64
    message = ReportedExperiment.read(log.read_bytes())
    assert message.outcome == "BadConfig" and words in message.message and message.ranking == ()


def test_what_cannot_be_read_is_left_out_and_told(finished, tmp_path):
    experiment, status = read_finished(finished.home)
    elsewhere = status.runs[1].model_copy(update={"adapter": "file:///elsewhere/a/b/c/results/1/adapter"})
    written = write_report(experiment, status.model_copy(update={"runs": (status.runs[0], elsewhere)}), SystemClock())
    assert [sentence.partition(":")[0] for sentence in written.missing] == ["ia3"]
    assert "is not below" in written.missing[0]
    assert [one.variant for one in written.status.ranking] == [one.variant for one in status.ranking]
    assert written.status.winner is None, "without the rows of one, nothing is known"
    (damaged,) = finished.folder.glob("out/default/compare-ia3-*/*/results/1/metrics.jsonl")
    kept = damaged.read_text()
    try:
        damaged.write_text('{"step": 1, "loss": "much"}\n')
        written = write_report(experiment, status, SystemClock())
        assert "metrics.jsonl is not shown" in written.missing[0]
        assert written.status.winner == status.winner
    finally:
        damaged.write_text(kept)


def test_a_long_comparison_still_fits_a_termination_message(finished):
    many = with_variants(finished.facts, 40)
    by_scores = Ranking(many.status.ranking, None, "No clear winner.")
    message = ReportedExperiment(outcome=Outcome.SUCCEEDED, message="x" * 5000, report="s3://bucket/" + "x" * 900,
                                 winner=by_scores.winner, conclusion=by_scores.conclusion, ranking=by_scores.variants)
    written = message.to_bytes()
    assert len(written) <= RESULT_BYTES
    read = ReportedExperiment.read(written)
    assert read.report == message.report
    assert 5 < len(read.ranking) < 40
    whole = read.ranked(by_scores)
    assert [one.rank for one in whole.variants] == list(range(1, 41))
    assert whole.variants[:len(read.ranking)] == read.ranking
    assert (whole.winner, whole.conclusion) == (by_scores.winner, by_scores.conclusion)
    assert {one.verdict for one in whole.variants[len(read.ranking):]} == {"compared in the report"}


@pytest.fixture(scope="module")
def pages(finished) -> dict[str, str]:
    """Pages to look at: the real one, one of many variants, one of a single variant, and the report of a job."""
    (job,) = finished.folder.glob("out/default/compare-lora-*/*/results/1/report.html")
    return {"job": job.read_text(), "two": render_experiment(finished.facts),
            "many": render_experiment(with_variants(finished.facts, 40)),
            "one": render_experiment(with_variants(finished.facts, 1))}


@pytest.fixture(scope="module")
def measured(pages, tmp_path_factory) -> dict[str, Any]:
    """What a browser makes of each page at each width."""
    folder = tmp_path_factory.mktemp("browser")
    return {name: shown_at(page, (360, 800, 1400), folder / name) for name, page in pages.items()}


@pytest.mark.parametrize("width", ["360", "800", "1400"])
@pytest.mark.parametrize(("name", "charts"), [("two", 4), ("many", 4), ("one", 2), ("job", 3)])
def test_a_browser_shows_the_page_without_overflow_and_without_an_empty_plot(measured, name, charts, width):
    page = measured[name][width]
    assert page["scrollWidth"] <= int(width), page["wide"]
    assert page["tables"], "the table scrolls inside itself"
    assert len(page["charts"]) == charts
    for chart in page["charts"]:
        assert chart["width"] > 200 and chart["height"] > 60
        assert chart["drawn"] >= 1, f"{chart['name']} is empty"
        assert not chart["outside"], f"{chart['name']}: texts outside of the page: {chart['outside']}"
        assert not chart["overlapping"], f"{chart['name']}: {chart['overlapping']}"


def test_the_page_has_a_dark_mode_and_prints_in_black(pages):
    style = re.search(r"<style>(.*?)</style>", pages["two"], re.DOTALL)[1]
    assert "prefers-color-scheme: dark" in style and "@media print" in style
