"""The report page and the model card: the same facts, whole on their own, and safe with texts of others."""

import html
import math
import re
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from itertools import pairwise

import pytest
import yaml
from finetune_api import parse_job_text, resolve_defaults, spec_hash
from finetune_api.messages import Accelerator, RunConfig
from finetune_api.spec.evaluation import GateSpec, Metric
from finetune_trainer.evaluation.evaluate import Evaluation, SampleAnswer
from finetune_trainer.report import charts
from finetune_trainer.report.card import render_card
from finetune_trainer.report.code import load_code
from finetune_trainer.report.examples import answered_examples
from finetune_trainer.report.facts import RunFacts, comparisons, figures, row_counts
from finetune_trainer.report.html import render_report
from finetune_trainer.report.settings import settings
from finetune_trainer.report.svg import ticks
from finetune_trainer.trained_model.peft_adapter import PeftAdapter
from finetune_trainer.training.result import RolloutExample

from tests.trainer.pages import Walk

JOB = """
apiVersion: finetune.dev/v1alpha1
kind: FineTuneJob
metadata: {name: sentence-lengths, namespace: courts}
spec:
  model: {source: Qwen/Qwen2.5-0.5B-Instruct, revision: 7ae557604adf67be50417f59c2c2f167def9a775}
  dataset:
    source: hf://lbox/lbox_open/ljp_criminal
    revision: refs/convert/parquet
    evaluationSplit: test
    system: "You are given the facts of a criminal case.\\nAnswer with one JSON object.\\n"
    prompt: "{{ facts }}"
    completion: '{"fine": {{ fine }}, "prison": {{ prison }}}'
    answerFormat: {type: json, schema: {type: object, required: [fine, prison]}}
  output: {uri: "s3://models/adapters"}
  method: {type: LoRA, quantization: nf4, lora: {rank: 16, alpha: 32, targetModules: [q_proj, v_proj]}}
  evaluation: {constrained: true, samples: 100, reference: {url: "https://llm.example/v1", model: gpt-4o}}
  budget: {maxCost: "2.00"}
"""
TEXT_JOB = """
apiVersion: finetune.dev/v1alpha1
kind: FineTuneJob
metadata: {name: sums}
spec:
  model: {source: "s3://models/llama/"}
  dataset: {source: "s3://data/sums.jsonl", prompt: "{{ q }}", completion: "{{ a }}"}
  output: {uri: "pvc://results/out"}
"""
ATTACK = "</style><script>alert(1)</script><img src=x onerror=alert(2)> | `x` [y](javascript:z) **b** {{ 7*7 }}"


def run_config(text=JOB):
    job = parse_job_text(text)
    spec = resolve_defaults(job.spec)
    return RunConfig(namespace=job.metadata.namespace, name=job.metadata.name, uid="0c6f0f1e-1", attempt=1, spec=spec,
                     spec_hash=spec_hash(spec), accelerator=Accelerator(name="nvidia-l4", memory_bytes=24 * 1024**3,
                                                                        hourly_rate=Decimal("0.80")))


def steps(count):
    return [{"step": step, "epoch": step / 85, "loss": 0.62 + 1.9 * math.exp(-step / 40) + 0.22 * math.sin(step * 1.7),
             "learningRate": 2e-4 * min(1, step / 8) * (1 - step / (count + 1)), "tokens": 5120 + step, "seconds": 1.9}
            for step in range(1, count + 1)]


def scores(right, fine, prison, **losses):
    return {**losses, "exactMatch": right, "jsonValid": 0.98, "schemaValid": 0.97, "fieldsMatch": right,
            "fieldAccuracy": {"fine": fine, "prison": prison}, "fieldF1Macro": {"fine": fine - 0.1, "prison": 0.14},
            "fieldF1Micro": {"fine": fine - 0.05, "prison": 0.19}}


CASES = [
    ("The defendant drove a car for about 2 km while drunk, with a blood alcohol content of 0.112 %, although he had "
     "been fined for the same offence in 2016.", '{"fine": 0, "prison": 8}', '{"fine": 5000000, "prison": 0}'),
    ("피고인은 2019. 3. 2. 02:10경 서울 강남구에 있는 주점에서 술값 문제로 피해자와 시비가 되어 "
     "주먹으로 얼굴을 2회 때렸다.",
     '{"fine": 1, "prison": 0}', "Fine: 1,000,000 won. The defendant struck the victim twice, which is an assault."),
    ("The defendant took a bicycle worth 300,000 won that stood before a shop. " * 12, '{"fine": 1, "prison": 0}', ""),
]


def evaluation(found, answers, constrained=None, unfinished=0):
    examples = tuple(SampleAnswer(*case[:2], answer) for case, answer in zip(CASES, answers, strict=True))
    return Evaluation(found, constrained, examples, rows=100, seconds=61.2, generated_tokens=2310,
                      generation_seconds=52.4, unfinished=unfinished)


def facts_of_a_run(**change):
    """A QLoRA run of 255 steps on JSON answers, with everything that a report can hold."""
    before = evaluation(scores(0.12, 0.31, 0.24, loss=2.312345, perplexity=10.098078), [case[2] for case in CASES],
                        scores(0.15, 0.33, 0.27), unfinished=3)
    after = evaluation(scores(0.47, 0.68, 0.61, loss=0.641222, perplexity=1.898799),
                       [CASES[0][1], CASES[1][1], '{"fine": 0, "prison": 4}'], scores(0.48, 0.69, 0.61))
    known = {
        "run": run_config(), "created": datetime(2026, 3, 14, 15, 9, tzinfo=UTC),
        "base_model": "Qwen/Qwen2.5-0.5B-Instruct", "base_revision": "7ae557604adf67be50417f59c2c2f167def9a775",
        "base": {"architecture": "Qwen2ForCausalLM", "layers": 24, "hidden": 896, "parameters": 494_032_768},
        "counts": {"read": 1480, "duplicates": 4, "dropped": 0, "cut": 21, "train": 1350, "heldOut": 100},
        "findings": [f"train row {row}: cut from 1311 to 1024 tokens" for row in range(21)],
        "before": before, "after": after,
        "majority": {"fieldsMatch": 0.22, "fieldAccuracy": {"fine": 0.5, "prison": 0.44},
                     "fieldF1Macro": {"fine": 0.2, "prison": 0.1}, "fieldF1Micro": {"fine": 0.3, "prison": 0.2}},
        "reference": scores(0.41, 0.6, 0.55), "steps": steps(255), "step": 255, "total_steps": 255,
        "resumed_from_step": 100, "stopped_early": None, "micro_batch_size": 8, "trainable_parameters": 1_081_344,
        "published_folder": "adapter", "loading": PeftAdapter.load_instructions,
        "stage_seconds": {"loading": 21.4, "preparing data": 6.1, "evaluating before": 61.2, "training": 486.0,
                          "evaluating after": 58.8, "exporting": 1.2},
        "peak_memory_bytes": 5_701_234_567, "device": "x86_64 NVIDIA L4", "cost": Decimal("0.1411"), "currency": "USD",
        "hourly_rate": Decimal("0.80"), "packages": {"torch": "2.13.0", "peft": "0.21.2"}, "gate": None,
    }
    return RunFacts(**{**known, **change})


def facts_of_text_answers():
    """A run on texts without fields: no evaluation before, nothing to compare with, a model from a bucket."""
    after = Evaluation({"loss": 1.2, "perplexity": 3.320117, "exactMatch": 0.5}, None,
                       (SampleAnswer("1 + 1?", "2", " 2 "),), 2, 1.0, 0, 0.0, 0)
    return facts_of_a_run(run=run_config(TEXT_JOB), base_model="s3://models/llama/", base_revision="ab" * 32, base={},
                          before=None, after=after, majority=None, reference=None, steps=[], step=0, total_steps=9,
                          stage_seconds={}, findings=[], counts={"read": 4, "train": 2, "heldOut": 2},
                          resumed_from_step=0, stopped_early="training stopped after step 0 of 9, because of time")


def reinforced_steps(count):
    seen = {"reward": 0.3, "accuracy": 0.25, "kl": 1.5, "clipFraction": 0.01, "explainedVariance": -0.5, "entropy": 0.2,
            "responseTokens": 25.5, "rolloutSeconds": 0.3, "updateSeconds": 0.2}
    return [*steps(count), *({**step, "step": step["step"] + count, **seen} for step in steps(count))]


EVERY_SHAPE = {
    "reinforced": facts_of_a_run(steps=reinforced_steps(20), step=40, total_steps=40, remark="PPO brought no gain",
                                 rollouts=(RolloutExample("2+2", "4", "2+2=4", 1), RolloutExample("1+1", "2", "", 0))),
    "everything": facts_of_a_run(),
    "text answers and no step": facts_of_text_answers(),
    "no evaluation before": facts_of_a_run(before=None),
    "nothing to compare with": facts_of_a_run(majority=None, reference=None),
    "one step": facts_of_a_run(steps=steps(1), step=1, resumed_from_step=0),
    "thousands of steps": facts_of_a_run(steps=steps(5000), step=5000, total_steps=5000),
    "losses that are no numbers": facts_of_a_run(steps=[{**step, "loss": math.nan} for step in steps(9)]),
    "only a loss": facts_of_a_run(before=None, majority=None,
                                  after=Evaluation({"loss": 2.0}, None, (), 5, 1.0, 0, 0.0, 0)),
}
in_every_shape = pytest.mark.parametrize("facts", EVERY_SHAPE.values(), ids=EVERY_SHAPE.keys())


def unescaped(card):
    return re.sub(r"\\(.)", r"\1", html.unescape(card))


@in_every_shape
def test_the_page_is_well_formed_and_fetches_nothing(facts):
    walk = Walk(render_report(facts))
    addresses = [value for _, name, value in walk.attributes if name in ("src", "href", "xlink:href", "data", "action")]
    assert addresses == ["data:,"]
    assert not {"script", "iframe", "object", "form", "base"} & set(walk.tags)
    assert not [name for _, name, _ in walk.attributes if name.startswith("on")]
    style = render_report(facts).partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style and "@import" not in style
    policy = [value for tag, name, value in walk.attributes if tag == "meta" and value.startswith("default-src")]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]


@in_every_shape
def test_every_id_is_used_once_and_every_label_points_at_one(facts):
    walk = Walk(render_report(facts))
    ids = [value for _, name, value in walk.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert {one for _, name, value in walk.attributes if name == "aria-labelledby" for one in value.split()} <= set(ids)


@in_every_shape
def test_page_and_card_hold_every_number_of_the_facts(facts):
    page, card = Walk(render_report(facts)).words(), unescaped(render_card(facts))
    for line in comparisons(facts):
        assert " | ".join(["| " + line.label, *line.cells]) in card
        assert " ".join([line.label, *line.cells]) in page
    for figure in figures(facts):
        assert figure.value in page and figure.note in page
        assert f"| {figure.label} | {figure.value} | {figure.note} |" in card
    for name, value in [*row_counts(facts), *settings(facts)]:
        assert f"| {name} | {value} |" in card
        assert name in page and value in page


@in_every_shape
def test_nothing_on_page_or_card_is_not_a_number(facts):
    for text in (Walk(render_report(facts)).words(), render_card(facts)):
        assert not re.search(r"\b(nan|NaN|inf|None)\b", text)


def test_texts_of_others_are_shown_and_never_run():
    run = run_config().model_copy(update={"name": ATTACK, "namespace": ATTACK})
    shown = SampleAnswer(ATTACK, ATTACK, ATTACK)
    facts = facts_of_a_run(
        run=run, base_model=ATTACK, base_revision=ATTACK, device=ATTACK, findings=[ATTACK], gate=ATTACK,
        rollouts=(RolloutExample(ATTACK, ATTACK, ATTACK, 0.1),), remark=ATTACK,
        stopped_early=ATTACK, packages={ATTACK: ATTACK}, counts={ATTACK: 3}, stage_seconds={ATTACK: 3.0},
        before=Evaluation({"fieldAccuracy": {ATTACK: 0.5}}, None, (shown,), 1, 1.0, 0, 0.0, 0),
        after=Evaluation({"fieldAccuracy": {ATTACK: 0.5}}, None, (shown,), 1, 1.0, 0, 0.0, 0))
    walk = Walk(render_report(facts))
    assert not {"script", "img"} & set(walk.tags)
    assert walk.text.count(ATTACK) >= 8
    card = render_card(facts)
    outside_code = re.sub(r"(?s)```.*?```", "", card.partition("---\n\n")[2])
    assert "<" not in outside_code
    assert not re.search(r"(?<!\\)[`\[*]", outside_code)
    assert all(len(re.findall(r"(?<!\\)\|", line)) <= 8 for line in outside_code.splitlines())


def test_a_reinforced_run_shows_what_was_sampled_and_keeps_its_losses_apart():
    page = render_report(EVERY_SHAPE["reinforced"])
    words = Walk(page).words()
    assert "Mean reward went from 0.3 at step 21 to 0.3 at step 40." in words
    first, last = steps(20)[0]["loss"], steps(20)[-1]["loss"]
    assert f"Training loss went from {first:.3f} at step 1 to {last:.3f} at step 20." in words
    assert "On held-out rows it was" not in words, "the loss after PPO belongs to no step of the warm-up"
    assert "reward 1" in words and "PPO brought no gain." in words


def test_a_text_can_not_end_the_code_block_of_the_card():
    facts = facts_of_a_run(base_model="x\n```\n# heading", base_revision="````")
    assert "\n`````python\n" in render_card(facts)
    compile(load_code(facts), "card", "exec")


def test_half_a_surrogate_pair_does_not_break_the_files():
    shown = SampleAnswer("\ud800?", "a", "b\udfff")
    facts = facts_of_a_run(after=replace(facts_of_a_run().after, examples=(shown,)), device="\ud800")
    assert "??" in render_report(facts).encode().decode()
    assert render_card(facts).encode()


def test_the_front_matter_names_base_model_and_data_set_where_the_hub_has_them():
    hub, own = (yaml.safe_load(render_card(facts).split("---\n")[1])
                for facts in (facts_of_a_run(), facts_of_text_answers()))
    assert hub == {"base_model": "Qwen/Qwen2.5-0.5B-Instruct", "base_model_relation": "adapter", "library_name": "peft",
                   "pipeline_tag": "text-generation", "tags": ["lora", "qlora", "sft"], "datasets": ["lbox/lbox_open"]}
    assert own == {"library_name": "peft", "pipeline_tag": "text-generation", "tags": ["lora", "sft"]}
    assert "s3://models/llama/" in render_card(facts_of_text_answers())


@pytest.mark.parametrize(("job", "said", "not_said"), [
    (JOB, ["revision=revision", "load_in_4bit=True"], "SHA-256 of the weights"),
    (JOB.replace("nf4", "int8"), ["load_in_8bit=True"], "load_in_4bit"),
    (TEXT_JOB, ["SHA-256 of the weights", "pvc://results/out/default/sums/0c6f0f1e-1/results/1/adapter"], "revision="),
])
def test_the_code_that_loads_the_adapter_is_python_and_names_base_and_adapter(job, said, not_said):
    code = load_code(facts_of_a_run(run=run_config(job)))
    compile(code, "card", "exec")
    assert all(text in code for text in said)
    assert not_said not in code


def test_page_and_card_say_how_the_run_ended():
    done, stopped = facts_of_a_run(), facts_of_a_run(stopped_early="training stopped after step 80 of 255")
    assert " Succeeded." in render_card(done) and "Succeeded " in Walk(render_report(done)).words()
    assert "Stopped early. Training stopped after step 80 of 255." in render_card(stopped)
    assert "Stopped early Training stopped after step 80 of 255." in Walk(render_report(stopped)).words()


def test_a_gate_that_is_not_passed_is_the_outcome_and_its_metric_the_first_number():
    config = run_config()
    gate = GateSpec(metric=Metric.FIELD_ACCURACY, minimum_gain=0.9)
    spec = config.spec.model_copy(update={"evaluation": config.spec.evaluation.model_copy(update={"gate": gate})})
    facts = facts_of_a_run(run=config.model_copy(update={"spec": spec}), gate="a gain of 0.37, less than 0.9")
    assert "Quality gate not passed Quality gate: a gain of 0.37, less than 0.9." in Walk(render_report(facts)).words()
    assert figures(facts)[0].label == "accuracy, mean of its fields"
    assert figures(facts)[0].value == "0.275 → 0.645"


def test_an_answer_is_marked_as_the_table_counts_it():
    page = Walk(render_report(facts_of_a_run())).words()
    assert page.count("✓ right") == 2 and page.count("✗ wrong") == 4
    text = Walk(render_report(facts_of_text_answers())).words()
    assert "An answer counts as right if it equals the expected answer." in text
    assert "✓ right" in text


def test_the_reference_models_answers_stand_beside_the_others():
    facts = facts_of_a_run(reference_answers={0: CASES[0][1], 2: "None"})
    shown = [{one.title: one.right for one in example.answers} for example in answered_examples(facts)]
    assert [example.get("reference") for example in shown] == [True, None, False]
    assert Walk(render_report(facts)).words().count("reference ✓ right") == 1


def test_only_the_reward_of_the_fields_judges_the_reference_model_as_the_table_does():
    for reward, words, shown in (("fieldsMatch", "if all of these fields are right: fine, prison.", True),
                                 ("json", "if it has the right answer.", False)):
        method = f"method: {{type: ReFT, reft: {{reward: {{type: {reward}}}}}}}"
        run = run_config(re.sub("method: .*", method, JOB))
        facts = facts_of_a_run(run=run, reference_answers={0: CASES[0][1]})
        assert f"An answer counts as right {words}" in Walk(render_report(facts)).words()
        assert any(one.title == "reference" for one in answered_examples(facts)[0].answers) is shown


def test_the_configuration_is_the_spec_and_reads_the_same():
    walk = Walk(render_report(facts_of_a_run()))
    written = next(text for text in walk.text if text.startswith("model:"))
    assert parse_job_text(yaml.safe_dump({
        "apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob", "metadata": {"name": "again"},
        "spec": yaml.safe_load(written)})).spec == run_config().spec


def test_warnings_beyond_fifty_are_counted():
    page = Walk(render_report(facts_of_a_run(findings=[f"row {row}" for row in range(60)]))).words()
    assert "60 warnings about rows" in page and "row 49" in page and "row 50" not in page and "and 10 more" in page


def test_thinning_keeps_the_first_step_the_last_one_and_every_spike():
    points = [(float(x), 9.0 if x == 3333 else math.sin(x)) for x in range(10_000)]
    kept = charts.thin_points(points)
    assert len(kept) <= charts.MOST_POINTS
    assert kept[0] == points[0] and kept[-1] == points[-1] and points[3333] in kept
    assert all(one[0] < other[0] for one, other in pairwise(kept))
    assert charts.thin_points(points[:50]) == points[:50]


def test_the_moving_average_is_the_mean_of_the_last_steps():
    assert charts.moving_average([(1, 2.0), (2, 4.0), (3, 9.0)], 2) == [(1, 2.0), (2, 3.0), (3, 6.5)]


@pytest.mark.parametrize(("low", "high", "whole", "expected"), [
    (0, 1, False, [0, 0.25, 0.5, 0.75, 1]), (0, 255, True, [0, 100, 200, 300]), (0, 3, True, [0, 1, 2, 3]),
    (5, 5, False, [5, 5.2, 5.4, 5.6]), (-0.1, 0.1, False, [-0.1, -0.05, 0, 0.05, 0.1]),
])
def test_ticks_are_round_and_hold_the_values_between_them(low, high, whole, expected):
    assert ticks(low, high, whole) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("log", [
    [], steps(1), steps(2), steps(3000), [{"step": 1, "loss": 1e300, "learningRate": 0.0}] * 2,
    [{"step": s, "loss": 0.0, "learningRate": 0.0} for s in range(1, 9)],
    [{"step": 1, "loss": math.inf}, {"step": 2, "loss": 0.5}, {"step": 3, "loss": None}, {"step": 4}],
])
def test_charts_have_finite_places_and_say_what_they_show(log):
    for chart in (charts.loss_chart(log, math.inf, 0.4, 2), charts.learning_rate_chart(log),
                  charts.stage_bars({"loading": 0.0, "training": math.nan, "exporting": 3.0})):
        walk = Walk(chart)
        assert not chart or ({"title", "desc"} <= set(walk.tags) and ("svg", "role", "img") in walk.attributes)
        places = [number for _, name, value in walk.attributes
                  if name in ("points", "x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "width", "height")
                  for number in re.split(r"[ ,]", value.replace("%", ""))]
        assert all(math.isfinite(float(place)) for place in places)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT's own
def test_the_code_that_loads_the_adapter_loads_it(tiny_model_folder, tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = f"file://{tiny_model_folder}"
    job = TEXT_JOB.replace("s3://models/llama/", base).replace("pvc://results/out", f"file://{tmp_path}")
    facts = replace(facts_of_text_answers(), run=run_config(job), base_model=base)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder)
    adapted = get_peft_model(model, LoraConfig(target_modules="all-linear"))
    adapted.save_pretrained(facts.published_location.removeprefix("file://"))
    loaded = {}
    exec(load_code(facts), loaded)
    assert loaded["model"].peft_config["default"].r == 8
    assert loaded["tokenizer"]("a question")["input_ids"]
