"""Filling in what was left out, and the digest of what decides a result."""

from __future__ import annotations

import pytest
import yaml
from finetune_api import FineTuneJob, FineTuneJobSpec, resolve_defaults, spec_hash
from finetune_api.fields import FieldDoc, document_field
from finetune_api.messages import Accelerator, RunConfig
from finetune_api.rules import merge_patch
from finetune_api.spec.evaluation import JSON_METRICS, Metric
from finetune_api.spec.method import DoraSpec, LoraSpec

from tests.api.jobs import job, nested

JSON_ANSWERS = {"answerFormat": {"type": "json"}}
SCHEMA_ANSWERS = {"answerFormat": {"type": "json", "schema": {"type": "object"}}}
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
    "dataset.answerFormat.schema": ({"type": "object"}, {"dataset": JSON_ANSWERS}),
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
    "method.dora.keptNorms": (False, {"method": {"type": "DoRA"}}),
    "engine": "unsloth",
    "training.epochs": 2,
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
                                  and not path.startswith(("method.dora", "evaluation.gate"))])
def test_the_digest_stays_when_a_default_is_written_out(path):
    assert _digest(nested(path, yaml.safe_load(LEAVES[path].default))) == _digest()


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


def test_dora_gets_a_block_of_its_own():
    method = resolve_defaults(job(method={"type": "DoRA"}).spec).method
    assert (method.dora, method.lora) == (DoraSpec(), None)


@pytest.mark.parametrize(("answers", "impossible"), [
    ({}, set(JSON_METRICS)), (JSON_ANSWERS, {Metric.SCHEMA_VALID}), (SCHEMA_ANSWERS, set()),
])
def test_every_metric_that_the_answers_allow_is_measured(answers, impossible):
    assert set(resolve_defaults(job(dataset=answers).spec).evaluation.metrics) == set(Metric) - impossible


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
                       spec_hash=spec_hash(spec), accelerator=Accelerator(name="cpu", hourly_rate=0))
    read = RunConfig.model_validate_json(config.model_dump_json())
    assert read == config
    assert spec_hash(read.spec) == read.spec_hash
    assert read.model_dump_json() == config.model_dump_json()
    assert isinstance(read.spec, FineTuneJobSpec)
