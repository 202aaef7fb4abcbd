"""Storage, against a folder and against a real S3 server: the same behaviour, and every failure a sentence."""

import errno
import hashlib
import os
import resource
import secrets
import subprocess
import sys
import threading
import traceback
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest
from finetune_api.spec.output import S3Spec
from finetune_api.values.uris import parse_uri
from finetune_trainer.errors import BadConfig, MissingInput, OutputNotWritable
from finetune_trainer.storage import BackgroundUploader, file_at, open_storage, probe
from finetune_trainer.storage.s3 import S3Storage

from tests.s3 import free_ports


def _uri(text):
    return parse_uri(text, ("s3", "file", "pvc"))


@pytest.fixture(params=["folder", "s3"])
def storage(request, tmp_path):
    if request.param == "folder":
        return open_storage(_uri(f"file://{tmp_path}/out"), None)
    server, bucket = request.getfixturevalue("s3_server"), request.getfixturevalue("s3_bucket")
    return open_storage(_uri(f"s3://{bucket}/some/prefix"), S3Spec(endpoint_url=server.endpoint))


def test_what_is_written_is_read_back_listed_and_removed(storage, tmp_path):
    source = tmp_path / "weights"
    source.write_bytes(os.urandom(1000))
    storage.put_file("a/b/weights", source)
    storage.put_bytes("a/c", b"small")
    assert storage.get_bytes("a/c") == b"small"
    assert storage.get_bytes("a/none") is None
    assert storage.keys("a/") == ["a/b/weights", "a/c"]
    assert storage.keys("") == ["a/b/weights", "a/c"]
    assert storage.keys("nothing/") == []
    storage.get_file("a/b/weights", tmp_path / "copy" / "weights")
    assert (tmp_path / "copy" / "weights").read_bytes() == source.read_bytes()
    storage.delete(["a/b/weights", "a/not there"])
    assert storage.keys("a/") == ["a/c"]


def test_a_large_file_is_written_in_parts_and_comes_back_the_same(storage, tmp_path):
    source = tmp_path / "large"
    source.write_bytes(os.urandom(20 << 20))
    storage.put_file("large", source)
    storage.get_file("large", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == source.read_bytes()


def test_a_file_is_created_once_and_never_replaced(storage):
    assert storage.create("manifest.json", b"first") is True
    assert storage.create("manifest.json", b"second") is False
    assert storage.get_bytes("manifest.json") == b"first"


def test_of_many_that_create_at_once_exactly_one_wins(storage):
    won = []
    threads = [threading.Thread(target=lambda n=n: won.append(n) if storage.create("one", str(n).encode()) else None)
               for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert storage.get_bytes("one") == str(won[0]).encode()


@pytest.mark.parametrize("key", ["../out", "/etc/passwd", "a/../../b", "", "a//etc/passwd", "./a", "a/", "a\0b"])
def test_a_key_cannot_leave_the_root(storage, key):
    with pytest.raises(BadConfig, match="is not a path below"):
        storage.put_bytes(key, b"x")
    with pytest.raises(BadConfig, match="is not a path below"):
        storage.get_bytes(key)


def test_a_digest_is_that_of_the_file_as_it_is_there(storage, tmp_path):
    content = os.urandom(20 << 20)
    (tmp_path / "large").write_bytes(content)
    storage.put_file("a/large", tmp_path / "large")
    found = storage.digest("a/large")
    assert (found.sha256, found.size_bytes) == (hashlib.sha256(content).hexdigest(), len(content))
    assert storage.digest("a/none") is None


def test_what_no_path_leads_to_is_not_listed(s3_server, s3_bucket, tmp_path):
    client = s3_server.client()
    for key in ("model/", "model/config.json", "model/sub/"):
        client.put_object(Bucket=s3_bucket, Key=key, Body=b"x")
    storage = open_storage(_uri(f"s3://{s3_bucket}/model"), S3Spec(endpoint_url=s3_server.endpoint))
    assert storage.keys("") == ["config.json"]
    (tmp_path / "out").mkdir()
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "out/link").symlink_to(tmp_path / "secret")
    (tmp_path / "out/itself").symlink_to(tmp_path / "out/itself")
    assert open_storage(_uri(f"file://{tmp_path}/out"), None).keys("") == []


def test_a_manifest_that_would_fill_the_memory_is_not_read(storage, tmp_path, monkeypatch):
    monkeypatch.setattr("finetune_trainer.storage.interface._SMALL_BYTES", 100)
    storage.put_bytes("manifest.json", b" " * 101)
    with pytest.raises(MissingInput, match="The trainer did not write this file"):
        storage.get_bytes("manifest.json")


def test_a_missing_file_is_said_with_its_place(storage, tmp_path):
    with pytest.raises(MissingInput, match="not/there"):
        storage.get_file("not/there", tmp_path / "x")
    assert list(tmp_path.glob("x*")) == []


def test_the_probe_leaves_nothing_behind(storage):
    probe(storage, "ns/job/uid")
    assert storage.keys("") == []


def test_the_storage_of_a_single_file_is_its_folder(s3_server, s3_bucket, tmp_path):
    s3_server.client().put_object(Bucket=s3_bucket, Key="data/train.jsonl", Body=b"{}")
    for location in (f"s3://{s3_bucket}/data/train.jsonl", f"file://{tmp_path}/data/train.jsonl"):
        folder, key = file_at(_uri(location), S3Spec(endpoint_url=s3_server.endpoint))
        assert key == "train.jsonl"
        assert str(folder.root) == location.rpartition("/")[0]
    folder, key = file_at(_uri(f"s3://{s3_bucket}/data/train.jsonl"), S3Spec(endpoint_url=s3_server.endpoint))
    assert folder.get_bytes(key) == b"{}"


def test_many_files_are_removed_in_batches(s3_server, s3_bucket, monkeypatch):
    monkeypatch.setattr("finetune_trainer.storage.s3._BATCH", 2)
    storage = open_storage(_uri(f"s3://{s3_bucket}"), S3Spec(endpoint_url=s3_server.endpoint))
    for number in range(5):
        storage.put_bytes(f"many/{number}", b"x")
    storage.delete(storage.keys("many/"))
    assert storage.keys("") == []


def _everything_shown(error):
    return "".join(traceback.format_exception(error))


def _probe_s3(server, bucket):
    probe(open_storage(_uri(f"s3://{bucket}/out"), S3Spec(endpoint_url=server.endpoint)), "job")


@pytest.mark.parametrize(("change", "message"), [
    ({"AWS_ACCESS_KEY_ID": "AKNOBODY"}, "does not know the access key; check AWS_ACCESS_KEY_ID"),
    ({"AWS_SECRET_ACCESS_KEY": "wrong-secret"}, "the secret key does not belong to the access key"),
    ({"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}, "no credentials were found; set AWS_ACCESS_KEY_ID"),
], ids=["unknown key", "wrong secret", "none"])
def test_wrong_credentials_fail_before_training_and_are_never_shown(s3_server, s3_bucket, monkeypatch, change, message):
    for name, value in change.items():
        if value is None:
            monkeypatch.delenv(name)
            monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        else:
            monkeypatch.setenv(name, value)
    with pytest.raises(OutputNotWritable, match=message) as caught:
        _probe_s3(s3_server, s3_bucket)
    for secret in (*s3_server.writer, "wrong-secret", "AKNOBODY"):
        assert secret not in _everything_shown(caught.value)


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"])
def test_credentials_with_a_line_break_are_refused_before_anything_can_quote_them(s3_server, s3_bucket, monkeypatch,
                                                                                 name):
    monkeypatch.setenv(name, "AQoEXAMPLE\n")
    with pytest.raises(BadConfig, match=f"{name} begins or ends with a space or a line break") as caught:
        _probe_s3(s3_server, s3_bucket)
    assert "AQoEXAMPLE" not in _everything_shown(caught.value)
    # One in the middle reaches the HTTP library, whose complaint holds the header.
    monkeypatch.setenv(name, "AQo\nEXAMPLE")
    with pytest.raises(OutputNotWritable) as refused:
        _probe_s3(s3_server, s3_bucket)
    assert "EXAMPLE" not in _everything_shown(refused.value)


def test_an_address_with_a_password_in_it_is_refused_and_not_shown(s3_bucket, monkeypatch):
    password = secrets.token_hex(8)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://me:{password}@127.0.0.1:9")
    with pytest.raises(BadConfig, match="AWS_ENDPOINT_URL contains a user name") as caught:
        open_storage(_uri(f"s3://{s3_bucket}/out"), None)
    assert password not in _everything_shown(caught.value)


def test_credentials_that_may_only_read_fail_the_probe(s3_server, s3_bucket, monkeypatch):
    for name, value in s3_server.environment(s3_server.reader).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(OutputNotWritable, match="access is denied; the credentials need to list, read, write"):
        _probe_s3(s3_server, s3_bucket)


def test_a_bucket_that_does_not_exist_is_said(s3_server, s3_bucket):
    with pytest.raises(OutputNotWritable, match="there is no such bucket"):
        _probe_s3(s3_server, "no-such-bucket")


def test_an_endpoint_that_nobody_listens_on_is_said_within_seconds(s3_bucket):
    endpoint = f"http://127.0.0.1:{free_ports(1)[0]}"
    with pytest.raises(OutputNotWritable, match=r"can't be reached; check spec\.output\.s3\.endpointUrl"):
        probe(open_storage(_uri("s3://bucket/out"), S3Spec(endpoint_url=endpoint)), "job")


def test_a_server_that_never_answers_is_given_up_on(s3_bucket, monkeypatch):
    monkeypatch.setattr(S3Storage, "first_answer_seconds", 0.2)
    with stand_in(answers=[None]) as (endpoint, seen), \
            pytest.raises(OutputNotWritable, match=f"{endpoint} does not answer; check"):
        probe(open_storage(_uri("s3://bucket/out"), S3Spec(endpoint_url=endpoint)), "job")
    assert len(seen) == 2


def test_a_server_that_has_answered_once_is_waited_for(s3_bucket, monkeypatch):
    monkeypatch.setattr(S3Storage, "first_answer_seconds", 0.2)
    monkeypatch.setattr(S3Storage, "answer_seconds", 0.4)
    with stand_in(answers=[(404, "NoSuchKey"), None, None, (200, "")]) as (endpoint, seen):
        storage = open_storage(_uri("s3://bucket/out"), S3Spec(endpoint_url=endpoint))
        assert storage.get_bytes("manifest.json") is None
        storage.put_bytes("a", b"1")
    assert [method for method, _ in seen] == ["GET", "PUT", "PUT", "PUT"]


def test_a_file_that_somebody_else_is_creating_is_tried_again(s3_bucket):
    """AWS answers 409 while another conditional write is under way, which may yet fail."""
    with stand_in(answers=[(409, "ConditionalRequestConflict"), (200, "")]) as (endpoint, seen):
        assert open_storage(_uri("s3://bucket/out"), S3Spec(endpoint_url=endpoint)).create("manifest.json", b"mine")
    assert len(seen) == 2
    with stand_in(answers=[(409, "ConditionalRequestConflict")]) as (endpoint, seen), \
            pytest.raises(OutputNotWritable, match="others wrote it at the same time"):
        open_storage(_uri("s3://bucket/out"), S3Spec(endpoint_url=endpoint)).create("manifest.json", b"mine")
    assert len(seen) == 5


@pytest.mark.parametrize(("path_style", "host"), [(None, "minio:9000"), (True, "minio:9000"),
                                                  (False, "bucket.minio:9000")])
def test_a_bucket_is_addressed_as_the_spec_says(s3_bucket, monkeypatch, path_style, host):
    """A proxy sees the address that a request is for."""
    with stand_in(answers=[(200, "")]) as (proxy, seen):
        monkeypatch.setenv("HTTP_PROXY", proxy)
        settings = S3Spec(endpoint_url="http://minio:9000", path_style=path_style)
        open_storage(_uri("s3://bucket/out"), settings).put_bytes("a", b"1")
    assert [urlsplit(url).netloc for _, url in seen] == [host]


@contextmanager
def stand_in(answers):
    """A server for what a real one can't be made to do: answers in order, the last for ever; None is silence.

    Yields:
        Its address, and the methods and paths that it was asked for.
    """
    seen, over = [], threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self):
            self.close_connection = True
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            seen.append((self.command, self.path))
            answer = answers[min(len(seen), len(answers)) - 1]
            if answer is None:
                over.wait(30)
                return
            status, code = answer
            body = f"<Error><Code>{code}</Code></Error>".encode() if code else b""
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = answer

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = False
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        over.set()
        server.shutdown()
        thread.join()
        server.server_close()


def test_an_output_below_a_file_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputNotWritable, match=r"can't be written: (Not a directory|File exists)"):
        probe(open_storage(_uri(f"file://{tmp_path}/file/out"), None), "job")


def test_a_read_only_place_cannot_be_written():
    with pytest.raises(OutputNotWritable, match="can't be written"):
        probe(open_storage(_uri("file:///proc/finetune"), None), "job")


def test_a_disk_that_fills_up_is_said_and_leaves_no_half_file(tmp_path):
    """A limit on file size stands for the full disk: the write fails half-way, in a process of its own."""
    script = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from finetune_api.values.uris import parse_uri\n"
        "from finetune_trainer.storage import open_storage\n"
        "storage = open_storage(parse_uri(sys.argv[1], ('file',)), None)\n"
        "storage.put_bytes('kept', b'old')\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, (1000, {resource.RLIM_INFINITY}))\n"
        "try: storage.put_bytes('kept', b'x' * 5000)\n"
        "except Exception as error: print(type(error).__name__, error)\n"
        "print(storage.keys(''), storage.get_bytes('kept'))\n"
    )
    done = subprocess.run([sys.executable, "-c", script, f"file://{tmp_path}/out"], capture_output=True, text=True,
                          check=True, timeout=60)
    assert "OutputNotWritable" in done.stdout
    assert "can't be written: File too large" in done.stdout
    assert "['kept'] b'old'" in done.stdout
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["kept"]


def test_a_full_disk_is_said_and_leaves_no_half_file(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", disk], capture_output=True, check=False)
    if mounted.returncode != 0:
        pytest.skip("a small disk can only be mounted by root; the test of a file size limit stands in for it")
    try:
        storage = open_storage(_uri(f"file://{disk}/out"), None)
        storage.put_bytes("kept", b"old")
        with pytest.raises(OutputNotWritable, match="can't be written: No space left on device; free some space"):
            storage.put_bytes("kept", b"x" * (1 << 20))
        assert storage.get_bytes("kept") == b"old"
        assert [path.name for path in (disk / "out").iterdir()] == ["kept"]
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_link_may_lead_elsewhere_in_a_claim_but_not_out_of_it(tmp_path, monkeypatch):
    monkeypatch.setenv("FINETUNE_PVC_ROOT", str(tmp_path))
    out, raw = tmp_path / "models" / "out", tmp_path / "models" / "raw"
    for folder in (out, raw):
        folder.mkdir(parents=True)
    (raw / "rows").write_bytes(b"rows")
    (tmp_path / "secret").write_bytes(b"secret")
    (out / "within").symlink_to(raw / "rows")
    (out / "file").symlink_to(tmp_path / "secret")
    (out / "folder").symlink_to(tmp_path)
    storage = open_storage(_uri("pvc://models/out"), None)
    assert storage.get_bytes("within") == b"rows"
    for key in ("file", "folder/secret"):
        with pytest.raises(BadConfig, match="a link leads out of it"):
            storage.get_bytes(key)
        with pytest.raises(BadConfig, match="a link leads out of it"):
            storage.get_file(key, tmp_path / "copy")
    for change in (lambda: storage.put_bytes("folder/secret", b"x"), lambda: storage.delete(["folder/secret"])):
        with pytest.raises(BadConfig, match="a link leads out of it"):
            change()
    # A link in the place of the file itself is replaced, and what it points to stays as it is.
    storage.put_bytes("file", b"new")
    assert (tmp_path / "secret").read_bytes() == b"secret"


def test_a_file_is_created_once_where_there_are_no_hard_links(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "link", refuse)
    storage = open_storage(_uri(f"file://{tmp_path}"), None)
    assert storage.create("manifest.json", b"first") is True
    assert storage.create("manifest.json", b"second") is False
    assert storage.get_bytes("manifest.json") == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_a_folder_may_be_emptied_while_others_write_into_it(tmp_path):
    storage = open_storage(_uri(f"file://{tmp_path}"), None)
    faults = []

    def write_and_remove(name):
        try:
            for _ in range(200):
                storage.put_bytes(f"ns/job/{name}", b"x")
                storage.delete([f"ns/job/{name}"])
        except OutputNotWritable as error:
            faults.append(error)

    threads = [threading.Thread(target=write_and_remove, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert storage.keys("") == []


def test_a_file_whose_name_looks_unfinished_is_listed(storage):
    storage.put_bytes("weights.part-1", b"x")
    assert storage.keys("") == ["weights.part-1"]


def test_a_claim_is_a_folder_below_the_place_where_claims_are_mounted(tmp_path, monkeypatch):
    monkeypatch.setenv("FINETUNE_PVC_ROOT", str(tmp_path))
    with pytest.raises(BadConfig, match=r"claim models is not mounted at .* pvc:// is for a cluster"):
        open_storage(_uri("pvc://models/out"), None)
    (tmp_path / "models").mkdir()
    open_storage(_uri("pvc://models/out"), None).put_bytes("a", b"1")
    assert (tmp_path / "models" / "out" / "a").read_bytes() == b"1"


def test_uploads_run_in_order_beside_the_caller_and_their_failure_comes_back():
    done = []
    with BackgroundUploader() as uploader:
        uploader.submit(lambda: done.append(1))
        uploader.submit(lambda: done.append(2))
        uploader.drain()
        assert done == [1, 2]

        def fail():
            raise OutputNotWritable("the disk is full")

        uploader.submit(fail)
        with pytest.raises(OutputNotWritable, match="the disk is full"):
            uploader.drain()
        with pytest.raises(OutputNotWritable):
            uploader.submit(lambda: done.append(3))
    assert done == [1, 2]
