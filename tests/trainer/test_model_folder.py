"""A model's folder that somebody else made: what its links show is neither read nor published."""

from __future__ import annotations

import hashlib
import json

import pytest
from finetune_api import parse_job, resolve_defaults
from finetune_api.values.uris import parse_uri
from finetune_trainer.errors import BadConfig, MissingInput
from finetune_trainer.model.files.content import check_links, content_digest, description_digest, folder_digest
from finetune_trainer.model.files.description import describe_model
from finetune_trainer.model.files.find import find_model

from tests.models import tiny_job


def model(tmp_path, source):
    return resolve_defaults(parse_job(tiny_job(tmp_path, model={"source": source})).spec).model


@pytest.fixture
def claim(tmp_path, monkeypatch):
    """A claim with a model folder without links."""
    monkeypatch.setenv("FINETUNE_PVC_ROOT", str(tmp_path / "pvc"))
    folder = tmp_path / "pvc/models/llama"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


@pytest.mark.parametrize("source", ["pvc://models/llama", "file"])
@pytest.mark.parametrize(("name", "target"), [
    ("chat_template.jinja", "/proc/self/environ"), ("sub/tokenizer.json", "/etc/hostname"), ("more", "/etc"),
    ("config.json", "../../../secret"), ("loop", "loop"),
])
def test_a_link_out_of_a_models_folder_is_refused_by_name(claim, tmp_path, source, name, target):
    source = f"file://{claim}" if source == "file" else source
    link = claim / name
    link.parent.mkdir(exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(target)
    for read in (find_model, describe_model):
        with pytest.raises(BadConfig, match=f"{name}.*replace the link by the file itself"):
            read(model(tmp_path, source), None, tmp_path, print)


def test_links_within_a_claim_and_within_the_hubs_cache_are_followed(claim, tmp_path):
    (claim.parent / "shared").write_bytes(b"weights")
    (claim / "model-2.safetensors").symlink_to("../shared")
    assert find_model(model(tmp_path, "pvc://models/llama"), None, tmp_path, print).folder == claim
    snapshot = tmp_path / "models--owner--name/snapshots/abc"
    snapshot.mkdir(parents=True)
    (tmp_path / "models--owner--name/blobs").mkdir()
    (tmp_path / "models--owner--name/blobs/1").write_text("{}")
    (snapshot / "config.json").symlink_to("../../blobs/1")
    check_links(snapshot, "owner/name")
    (snapshot / "chat_template.jinja").symlink_to("/proc/self/environ")
    with pytest.raises(BadConfig, match="chat_template"):
        check_links(snapshot, "owner/name")


def test_a_folder_that_is_a_link_out_of_its_claim_is_refused(claim, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (claim.parent / "other").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BadConfig, match="a link leads out of it"):
        find_model(model(tmp_path, "pvc://models/other"), None, tmp_path, print)


def test_the_digest_of_a_models_content_is_the_same_wherever_it_lies(claim, tmp_path, s3_server, s3_bucket):
    wanted = find_model(model(tmp_path, "pvc://models/llama"), None, tmp_path, print).revision
    s3_server.client().upload_file(str(claim / "model.safetensors"), s3_bucket, "llama/model.safetensors")
    spec = resolve_defaults(parse_job(tiny_job(tmp_path, output={
        "uri": f"s3://{s3_bucket}/out", "s3": {"endpointUrl": s3_server.endpoint}})).spec)
    s3_server.client().upload_file(str(claim / "config.json"), s3_bucket, "llama/config.json")
    described = set()
    for source in ("pvc://models/llama", f"file://{claim}", f"s3://{s3_bucket}/llama"):
        described.add(description_digest(model(tmp_path, source), spec.output.s3))
        assert content_digest(model(tmp_path, source), spec.output.s3, tmp_path) == wanted
    assert len(described) == 1
    (claim / "model.safetensors").write_bytes(b"replaced")
    assert folder_digest(claim) != wanted
    assert parse_uri(f"file://{claim}", ("file",)).local_path() == claim


@pytest.mark.parametrize("key", ["vocab", "merges"])
def test_a_tokenizer_that_names_a_file_of_the_machine_is_refused(tmp_path, key):
    from finetune_trainer.model.files.find import ModelFiles
    from finetune_trainer.model.tokenizer import load_tokenizer

    (tmp_path / "secret").write_text("[UNK]\n[PAD]\nsecret\n")
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "model/vocab.txt").write_text("[UNK]\n[CLS]\n[SEP]\n[PAD]\n[MASK]\nhello\n")
    (tmp_path / "model/tokenizer_config.json").write_text(json.dumps(
        {"tokenizer_class": "BertTokenizer", key: str(tmp_path / "secret")}))
    with pytest.raises(BadConfig, match=f"{key} in the tokenizer_config.json of .* is a path"):
        load_tokenizer(ModelFiles(tmp_path / "model", ""))


def test_a_link_in_the_cache_of_converted_models_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    folder = tmp_path / "cache/gguf" / hashlib.sha256(b"GGUF").hexdigest()
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "chat_template.jinja").symlink_to("/proc/self/environ")
    with pytest.raises(BadConfig, match="chat_template"):
        find_model(model(tmp_path, f"file://{tmp_path}/model.gguf"), None, tmp_path, print)


@pytest.mark.parametrize(("path", "below"), [("hub", "hub/snapshots/abc"), ("exports", "exports/pt")])
def test_a_folder_whose_model_lies_below_it_or_a_file_is_refused_with_the_folder_to_write(tmp_path, path, below):
    (tmp_path / below).mkdir(parents=True)
    (tmp_path / below / "config.json").write_text("{}")
    cure = f"has no config.json; {below.partition('/')[2]} in it has one; write that folder"
    for source, words in ((path, cure), (f"{below}/config.json", "a file; write the folder with its config.json")):
        for read in (find_model, describe_model):
            with pytest.raises(MissingInput, match=words):
                read(model(tmp_path, f"file://{tmp_path}/{source}"), None, tmp_path, print)
