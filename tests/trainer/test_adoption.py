"""What somebody left in an output is taken over only where it is this job's result, whole and in its own folder."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest
from finetune_api import parse_job, resolve_defaults, spec_hash
from finetune_api.messages import Accelerator, Outcome, RunConfig
from finetune_trainer.errors import OutputNotWritable
from finetune_trainer.publish.adoption import candidates, damage, published_result, result_mismatch, wanted
from finetune_trainer.storage import open_storage

from tests.models import tiny_job
from tests.trainer.manifests import publish

FILE = {"path": "results/1/adapter/adapter_model.safetensors", "sha256": "1" * 64, "sizeBytes": 1}


@pytest.fixture
def job(tmp_path):
    spec = resolve_defaults(parse_job(tiny_job(tmp_path, output={"uri": f"file://{tmp_path}/out"})).spec)
    return RunConfig(namespace="team", name="tiny", uid="earlier", attempt=2, spec=spec, spec_hash=spec_hash(spec),
                     accelerator=Accelerator(name="cpu", hourly_rate=Decimal("0")))


@pytest.fixture
def storage(job):
    return open_storage(job.spec.output.uri, None)


def known(job):
    return replace(wanted(job), data_hash="d" * 64, base_revision="b" * 64)


def faults(job, storage):
    """What is said of the results that are passed over, and the results that are left."""
    notes = []
    left = candidates(storage, known(job), notes.append)
    return notes + [fault for prefix, one in left if (fault := damage(storage, prefix, one))], [
        one for prefix, one in left if not damage(storage, prefix, one)]


@pytest.mark.parametrize("outcome", [Outcome.SUCCEEDED, Outcome.QUALITY_GATE, Outcome.STOPPED_EARLY])
def test_a_result_is_taken_over_with_its_outcome_and_its_own_location(job, storage, tmp_path, outcome):
    home = publish(job, tmp_path / "out", outcome=outcome)
    assert [one.uid for one in faults(job, storage)[1]] == ["earlier"]
    result = published_result(storage, "team/tiny/earlier", wanted(job))
    assert result.outcome is (Outcome.ALREADY_PUBLISHED if outcome is Outcome.SUCCEEDED else outcome)
    assert ("runPolicy.rerun: Always trains again" in result.message) == (outcome is not Outcome.SUCCEEDED)
    assert result.adapter.uri == f"file://{home}/results/1/adapter"
    assert result.manifest == f"file://{home}/manifest.json"


@pytest.mark.parametrize(("change", "words"), [
    ({"spec_hash": "1" * 64}, "another spec"),
    ({"data_hash": "1" * 64}, "other data"),
    ({"base_model": "some/other"}, "another base model"),
    ({"base_revision": "1" * 64}, "another revision of the base model"),
    ({"base_revision": None}, "another revision of the base model"),
    ({"tampered": {"namespace": "others"}}, "its manifest belongs to others/tiny/earlier"),
    ({"tampered": {"name": "other"}}, "its manifest belongs to team/other/earlier"),
    ({"tampered": {"uid": "another"}}, "its manifest belongs to team/tiny/another"),
    ({"adapter": {"uri": "s3://somewhere/else"}}, "not below"),
    ({"adapter": {"uri": "file:///etc"}}, "not below"),
    ({"adapter": {"sha256": "1" * 64}}, "differ from the files that it lists"),
    ({"tampered": {"files": []}}, "differ from the files that it lists"),
    ({"tampered": {"files": [{**FILE, "path": "/etc/hostname"}]}}, "its manifest is not valid"),
    ({"tampered": {"files": [{**FILE, "path": "results/1/adapter/../../../x"}]}}, "its manifest is not valid"),
    ({"outcome": Outcome.DIVERGED}, "names no published weights"),
    ({"tampered": {"result": {"outcome": "Succeeded", "message": ""}}}, "names no published weights"),
    ({"tampered": {"schemaVersion": []}}, "its manifest is not valid"),
], ids=str)
def test_a_result_of_something_else_is_passed_over_in_words(job, storage, tmp_path, change, words):
    publish(job, tmp_path / "out", **change)
    notes, left = faults(job, storage)
    assert left == []
    assert len(notes) == 1 and words in notes[0]


@pytest.mark.parametrize(("harm", "words"), [
    (lambda weights, manifest: weights.unlink(), "is missing"),
    (lambda weights, manifest: weights.write_bytes(b"x" * weights.stat().st_size), "is damaged"),
    (lambda weights, manifest: (weights.unlink(), weights.symlink_to("/etc/hostname")), "a link leads out"),
    (lambda weights, manifest: manifest.write_text("{"), "its manifest is not valid"),
    (lambda weights, manifest: manifest.write_bytes(b"\xff\xfe"), "its manifest is not valid"),
    (lambda weights, manifest: manifest.write_text('{"run": ' + "[" * 100_000), "its manifest is not valid"),
], ids=["missing", "damaged", "a link", "nonsense", "no text", "deep"])
def test_a_result_that_is_not_there_to_the_bit_is_none(job, storage, tmp_path, harm, words):
    home = publish(job, tmp_path / "out")
    harm(home / "results/1/adapter/adapter_model.safetensors", home / "manifest.json")
    notes, left = faults(job, storage)
    assert left == []
    assert len(notes) == 1 and words in notes[0]
    with pytest.raises(OutputNotWritable, match=r"manifest\.json is not this job's result: .* It is not changed"):
        published_result(storage, "team/tiny/earlier", wanted(job))


def test_a_manifest_that_only_a_link_shows_is_not_there(job, storage, tmp_path):
    home = publish(job, tmp_path / "elsewhere")
    (tmp_path / "out/team").mkdir(parents=True)
    (tmp_path / "out/team/tiny").symlink_to(home.parent)
    assert faults(job, storage) == ([], [])


def test_the_newest_of_several_results_is_taken(job, storage, tmp_path):
    publish(job, tmp_path / "out", uid="a", created="2026-01-03T00:00:00Z")
    publish(job, tmp_path / "out", uid="b", created="2026-01-01T00:00:00")
    publish(job, tmp_path / "out", uid="c", created="2026-01-05T00:00:00Z")
    assert [one.uid for one in faults(job, storage)[1]] == ["c", "a", "b"]


def test_what_is_not_known_yet_is_not_compared(job, storage, tmp_path):
    publish(job, tmp_path / "out")
    (prefix, found), = candidates(storage, wanted(job), print)
    assert prefix == "team/tiny/earlier"
    assert result_mismatch(found, wanted(job)) is None
    commit = "c" * 40
    hub = job.model_copy(update={"spec": job.spec.model_copy(update={"model": job.spec.model.model_copy(update={
        "revision": commit, "source": resolve_defaults(parse_job(tiny_job(tmp_path, model={
            "source": "owner/name"})).spec).model.source})})})
    assert wanted(hub).base_revision == commit
