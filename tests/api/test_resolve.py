"""Filling in what was left out, and the digest of what decides a result."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest
import yaml
from finetune_api import FineTuneJob, FineTuneJobSpec, resolve_defaults, spec_hash
from finetune_api.explain.fields import FieldDoc, document_field
from finetune_api.messages import Accelerator, RunConfig
from finetune_api.rules import merge_patch
from finetune_api.spec.evaluation import JSON_METRICS, Metric
from finetune_api.spec.method import DoraSpec, LoraSpec, LowRankSpec

from tests.api.jobs import job, nested

JSON_ANSWERS = {"answerFormat": {"type": "json"}}
SCHEMA_ANSWERS = {"answerFormat": {"type": "json", "jsonSchema": '{"type": "object"}'}}
HUB_DATA = {"source": "hf://owner/name"}

DECIDES = {
    "model.source": "owner/other",
    "model.revision": "v2",
    "model.tokenSecretRef.name": "hub",
    "dataset.source": "s3://bucket/other.jsonl",
    "dataset.format": "csv",
    "dataset.revision": ("main", {"dataset": HUB_DATA}),
    "dataset.sha256": "0" * 64,
    "dataset.split": "training",
    "dataset.evaluationSplit": ("test", {"dataset": HUB_DATA}),
    "dataset.evaluationFraction": 0.2,
    "dataset.prompt": "{{ question }}",
    "dataset.completion": "{{ answer }}",
    "dataset.messages": ("chat", {"dataset": {"prompt": None, "completion": None, "messages": "talk"}}),
    "dataset.system": "Be brief.",
    "dataset.maxSamples": 10,
    "dataset.answerFormat.type": "json",
    "dataset.answerFormat.jsonSchema": ('{"type": "object"}', {"dataset": JSON_ANSWERS}),
    "output.exports": ["adapter", "merged"],
    "method.type": "DoRA",
    "method.quantization": "nf4",
    "method.lora.rank": 4,
    "method.lora.alpha": 16,
    "method.lora.dropout": 0.1,
    "method.lora.targetModules": ["q_proj"],
    "method.lora.rslora": True,
    "method.dora.rank": (4, {"method": {"type": "DoRA"}}),
    "method.dora.alpha": (16, {"method": {"type": "DoRA"}}),
    "method.dora.dropout": (0.1, {"method": {"type": "DoRA"}}),
    "method.dora.targetModules": (["q_proj"], {"method": {"type": "DoRA"}}),
    "method.dora.rslora": (True, {"method": {"type": "DoRA"}}),
    "method.lora.learningRateRatio": 16,
    "method.lora.initialization": "pissa",
    "method.dora.learningRateRatio": (16, {"method": {"type": "DoRA"}}),
    "method.partial.lastLayers": (3, {"method": {"type": "Partial", "partial": {"lastLayers": 2}}}),
    "method.partial.layers": ([1], {"method": {"type": "Partial", "partial": {"layers": [0]}}}),
    "method.partial.parameters": (["*.bias"], {"method": {"type": "Partial", "partial": {"parameters": ["*norm*"]}}}),
    "method.additive.technique": ("Bottleneck", {"method": {"type": "Additive"}}),
    "method.additive.virtualTokens": (
        8, {"method": {"type": "Additive", "additive": {"technique": "PromptTuning"}}}),
    "method.additive.bottleneckSize": (
        8, {"method": {"type": "Additive", "additive": {"technique": "Bottleneck"}}}),
    "method.additive.targetModules": (["k_proj"], {"method": {"type": "Additive"}}),
    **{f"method.reft.{field}": (value, {"method": {"type": "ReFT", **context}}) for field, value, context in (
        ("policy", "DoRA", {}), ("lora.rank", 4, {}), ("lora.alpha", 16, {}), ("lora.dropout", 0.1, {}),
        ("lora.targetModules", ["q_proj"], {}), ("lora.rslora", True, {}), ("lora.learningRateRatio", 16, {}),
        ("reward.type", "json", {}),
        ("reward.trigger", "Answer:", {}), ("reward.answer", "{{ answer }}", {}), ("reward.tolerance", 0.5, {}),
        ("reward.partial", 0.0, {}),
        ("reward.plugin", "other", {"reft": {"reward": {"type": "plugin", "plugin": "one"}}}),
        ("reward.timeout", "1s", {}), ("ppo.steps", 7, {}), ("ppo.rollouts", 256, {}), ("ppo.miniBatchSize", 32, {}),
        ("ppo.epochs", 1, {}), ("ppo.learningRate", 1e-5, {}), ("ppo.valueLearningRate", 3e-5, {}),
        ("ppo.rampSteps", 0, {}), ("ppo.klCoefficient", 0.5, {}),
        ("ppo.gamma", 0.9, {}), ("ppo.lambda", 0.9, {}), ("ppo.clipRange", 0.1, {}), ("ppo.valueClipRange", 0.1, {}),
        ("ppo.valueCoefficient", 1.0, {}), ("ppo.maxNewTokens", 64, {}), ("ppo.temperature", 0.7, {}),
        ("ppo.maxGradNorm", 0.5, {}), ("ppo.checkpointEvery", 5, {}))},
    "method.dora.keptNorms": (False, {"method": {"type": "DoRA"}}),
    "engine": "unsloth",
    "training.epochs": 2,
    "training.kernels": "torch",
    "training.maxSteps": 10,
    "training.learningRate": 1e-3,
    "training.batchSize": 8,
    "training.microBatchSize": 2,
    "training.maxLength": 512,
    "training.longRows": "drop",
    "training.packing": False,
    "training.scheduler": "linear",
    "training.warmup": 0.1,
    "training.weightDecay": 0.1,
    "training.maxGradNorm": 0.3,
    "training.precision": "float32",
    "training.gradientCheckpointing": "enabled",
    "training.seed": 7,
    "training.checkpointEvery": 10,
    "evaluation.metrics": ["loss"],
    "evaluation.samples": 10,
    "evaluation.baseline": False,
    "evaluation.constrained": (True, {"dataset": SCHEMA_ANSWERS}),
    "evaluation.maxNewTokens": 64,
    "evaluation.reference.url": ("https://other.example/v1",
                                 {"evaluation": {"reference": {"url": "https://a.example/v1", "model": "m"}}}),
    "evaluation.reference.model": ("n", {"evaluation": {"reference": {"url": "https://a.example/v1", "model": "m"}}}),
    "evaluation.reference.apiKeySecretRef.name": (
        "key", {"evaluation": {"reference": {"url": "https://a.example/v1", "model": "m"}}}),
    "evaluation.gate.metric": ("perplexity", {"evaluation": {"gate": {"metric": "loss"}}}),
    "evaluation.gate.minimumGain": (0.5, {"evaluation": {"gate": {"metric": "loss"}}}),
}
"""Each field that decides a result: another value, and what the job needs to take it."""

DECIDES_NOTHING = {
    "output.uri": "file:///elsewhere",
    "output.s3.endpointUrl": "http://localhost:9000",
    "output.s3.region": "eu-west-1",
    "output.s3.pathStyle": True,
    "output.s3.credentialsSecretRef.name": "s3",
    "compute.accelerator": "cpu",
    "compute.gpusPerNode": 2,
    "compute.nodes": 2,
    "compute.cpu": 4,
    "compute.memory": "16Gi",
    "compute.spot": True,
    "compute.queueName": "queue",
    "compute.priorityClassName": "high",
    "compute.serviceAccountName": "trainer",
    "compute.nodeSelector": {"zone": "a"},
    "compute.tolerations": [{"key": "gpu", "operator": "Exists"}],
    "budget.maxCost": 5,
    "budget.hourlyRate": "0.80",
    "budget.maxDuration": "1h",
    "runPolicy.suspend": True,
    "runPolicy.backoffLimit": 1,
    "runPolicy.ttlSecondsAfterFinished": 60,
    "runPolicy.preflight": "Skip",
    "runPolicy.rerun": "Always",
    "runPolicy.resumeFrom": "earlier",
    "runPolicy.onMissingCheckpoint": "TrainFromStart",
    "runPolicy.stopAfter": 0.25,
}


def _fields(document: FieldDoc) -> dict[str, FieldDoc]:
    """The fields below one that hold no others, by their path below spec."""
    below = document_field(FineTuneJob, document.path)
    if not below.fields or below.type.startswith("list"):
        return {below.path.removeprefix("spec."): below}
    return {path: field for part in below.fields for path, field in _fields(part).items()}


LEAVES = _fields(document_field(FineTuneJob, "spec"))


def _digest(*patches: dict) -> str:
    sections: dict = {}
    for patch in patches:
        # Not merge_patch alone: its nulls are for the smallest job, and must come through.
        for name, section in patch.items():
            sections[name] = {**sections.get(name, {}), **section} if isinstance(section, dict) else section
    return spec_hash(resolve_defaults(job(**sections).spec))


def _change(path: str, change) -> tuple[dict, dict]:
    value, context = change if isinstance(change, tuple) else (change, {})
    section = context.get(path.partition(".")[0], {})
    patched = nested(path, value)
    if isinstance(section, dict):
        name = path.partition(".")[0]
        patched = {name: merge_patch(section, patched[name])} if isinstance(patched[name], dict) else patched
    return context, patched


def test_the_tables_name_every_field_of_the_spec():
    assert {*DECIDES, *DECIDES_NOTHING} == set(LEAVES)


@pytest.mark.parametrize("path", DECIDES)
def test_the_digest_changes_with_what_decides_the_result(path):
    context, patched = _change(path, DECIDES[path])
    assert _digest(context) != _digest(context, patched)


@pytest.mark.parametrize("path", DECIDES_NOTHING)
def test_the_digest_stays_whatever_the_job_runs_on_costs_or_is_kept(path):
    assert _digest(nested(path, DECIDES_NOTHING[path])) == _digest()


@pytest.mark.parametrize("path", [path for path, field in LEAVES.items()
                                  if field.default and path.split(".")[0] not in ("compute", "runPolicy")
                                  and not path.startswith(("method.dora", "method.additive", "method.reft",
                                                           "evaluation.gate"))])
def test_the_digest_stays_when_a_default_is_written_out(path):
    assert _digest(nested(path, yaml.safe_load(LEAVES[path].default))) == _digest()


def test_kernels_that_are_left_to_the_trainer_leave_the_digest_of_stored_specs():
    assert _digest(nested("training.kernels", "auto")) == _digest()


def test_unsloth_s_packed_rows_leave_the_digest_that_its_results_had_without():
    with_packing = _digest({"engine": "unsloth"})
    assert with_packing == _digest({"engine": "unsloth", "training": {"packing": False}})
    assert with_packing != _digest()


def test_what_reft_leaves_out_is_filled_in_as_in_the_paper_but_for_an_adapter():
    spec = resolve_defaults(job(method={"type": "ReFT"}).spec)
    assert (spec.training.epochs, spec.method.lora, spec.method.reft.lora) == (2.0, None, LowRankSpec())
    ppo = spec.method.reft.ppo
    assert (ppo.learning_rate, ppo.value_learning_rate, ppo.kl_coefficient) == (2e-4, 1e-5, 0.05)
    assert (ppo.gamma, ppo.gae_lambda) == (1.0, 0.95)
    assert (ppo.clip_range, ppo.value_clip_range, ppo.value_coefficient, ppo.epochs) == (0.2, 0.2, 5.0, 2)
    assert Metric.ANSWER_ACCURACY in spec.evaluation.metrics
    full = resolve_defaults(job(method={"type": "ReFT", "reft": {"policy": "Full"}}).spec).method.reft.ppo
    assert (full.learning_rate, full.value_learning_rate) == (3e-7, 3e-7)
    program = {"type": "program", "answer": "{{ a }}"}
    programs = resolve_defaults(job(method={"type": "ReFT", "reft": {"reward": program}}).spec).method.reft
    assert (programs.ppo.kl_coefficient, programs.reward.timeout) == (0.01, timedelta(seconds=2))


@pytest.mark.parametrize(("answers", "written", "reward"), [
    ({}, {}, "finalAnswer"), (JSON_ANSWERS, {}, "fieldsMatch"),
    (JSON_ANSWERS, {"reft": {"reward": {"partial": 0.0}}}, "fieldsMatch"),
    (JSON_ANSWERS, {"reft": {"reward": {"type": "finalAnswer"}}}, "finalAnswer"),
    (JSON_ANSWERS, {"reft": {"reward": {"type": "json"}}}, "json"),
])
def test_reft_judges_json_answers_by_their_fields_unless_another_reward_is_written(answers, written, reward):
    patch = {"dataset": answers, "method": {"type": "ReFT", **written}}
    resolved = resolve_defaults(job(**patch).spec).method.reft.reward
    assert str(resolved.type) == reward
    written_out = merge_patch(patch, {"method": {"reft": {"reward": {"type": reward}}}})
    assert _digest(patch) == _digest(written_out)
    assert resolve_defaults(job(dataset=answers).spec).method.reft is None


def test_what_is_left_out_is_filled_in():
    spec = resolve_defaults(job().spec)
    assert spec.dataset.evaluation_fraction == 0.1
    assert (spec.training.epochs, spec.training.max_steps, spec.training.learning_rate) == (3.0, None, 2e-4)
    assert spec.method.lora == LoraSpec(rank=8, alpha=32.0)
    assert spec.method.dora is None


def test_what_is_written_stays_as_it_is():
    spec = resolve_defaults(job(
        dataset={"source": "hf://owner/name", "evaluationSplit": "test"},
        training={"maxSteps": 5, "learningRate": 0.1},
        method={"type": "DoRA", "dora": {"rank": 2}},
        evaluation={"metrics": ["loss"]},
    ).spec)
    assert (spec.dataset.evaluation_split, spec.dataset.evaluation_fraction) == ("test", None)
    assert (spec.training.epochs, spec.training.max_steps, spec.training.learning_rate) == (None, 5, 0.1)
    assert (spec.method.dora, spec.method.lora) == (DoraSpec(rank=2), None)
    assert spec.evaluation.metrics == (Metric.LOSS,)


@pytest.mark.parametrize(("method", "rate"), [
    ({"type": "Full"}, 2e-5),
    ({"type": "Partial", "partial": {"lastLayers": 1}}, 5e-5),
    ({"type": "Partial", "partial": {"parameters": ["*.bias"]}}, 5e-4),
    ({"type": "Additive"}, 1e-2),
    ({"type": "Additive", "additive": {"technique": "PromptTuning"}}, 3e-2),
    ({"type": "Additive", "additive": {"technique": "PrefixTuning"}}, 3e-2),
    ({"type": "Additive", "additive": {"technique": "Bottleneck"}}, 1e-3),
], ids=str)
def test_every_method_has_a_learning_rate_of_its_own(method, rate):
    assert resolve_defaults(job(method=method).spec).training.learning_rate == rate


@pytest.mark.parametrize(("technique", "filled", "packing"), [
    ("IA3", (None, None), True), ("PromptTuning", (20, None), False), ("PrefixTuning", (20, None), False),
    ("Bottleneck", (None, 64), True),
])
def test_a_technique_gets_its_own_settings_and_virtual_tokens_are_never_packed(technique, filled, packing):
    spec = resolve_defaults(job(method={"type": "Additive", "additive": {"technique": technique}}).spec)
    assert spec.method.additive is not None
    assert (spec.method.additive.virtual_tokens, spec.method.additive.bottleneck_size) == filled
    assert spec.training.packing is packing


def test_dora_gets_a_block_of_its_own():
    method = resolve_defaults(job(method={"type": "DoRA"}).spec).method
    assert (method.dora, method.lora) == (DoraSpec(), None)


@pytest.mark.parametrize(("answers", "impossible"), [
    ({}, set(JSON_METRICS)), (JSON_ANSWERS, {Metric.SCHEMA_VALID}), (SCHEMA_ANSWERS, set()),
])
def test_every_metric_that_the_answers_allow_is_measured(answers, impossible):
    measured = resolve_defaults(job(dataset=answers).spec).evaluation.metrics
    assert set(measured) == set(Metric) - impossible - {Metric.ANSWER_ACCURACY}


def test_resolving_twice_changes_nothing():
    spec = resolve_defaults(job(dataset=SCHEMA_ANSWERS).spec)
    assert resolve_defaults(spec) == spec


def test_a_resolved_spec_is_still_a_valid_job():
    spec = resolve_defaults(job(dataset=SCHEMA_ANSWERS, training={"maxSteps": 3}).spec)
    made = FineTuneJob.model_validate({"metadata": {"name": "made"}, "spec": spec})
    assert FineTuneJob.model_validate_json(made.model_dump_json()) == made


def test_the_run_configuration_survives_the_way_through_json():
    spec = resolve_defaults(job(
        dataset=SCHEMA_ANSWERS, method={"quantization": "nf4"}, budget={"maxCost": "1.50", "maxDuration": "90m"},
        compute={"cpu": 4, "memory": "16Gi", "nodeSelector": {"zone": "a"}, "tolerations": [{"operator": "Exists"}]},
        output={"exports": ["adapter", "merged"], "s3": {"endpointUrl": "http://localhost:9000"}},
    ).spec)
    config = RunConfig(namespace="team", name="smallest", uid="8f9b6c1e", attempt=2, spec=spec,
                       spec_hash=spec_hash(spec), accelerator=Accelerator(name="cpu", hourly_rate=Decimal(0)))
    read = RunConfig.model_validate_json(config.model_dump_json())
    assert read == config
    assert spec_hash(read.spec) == read.spec_hash
    assert read.model_dump_json() == config.model_dump_json()
    assert isinstance(read.spec, FineTuneJobSpec)
