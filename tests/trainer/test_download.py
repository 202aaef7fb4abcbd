"""Data over HTTPS, from a real server on this machine: where a job may lead a trainer, and where not."""

import http.server
import ssl
import threading
from pathlib import Path

import pytest
from finetune_api.values.uris import parse_uri
from finetune_trainer.data.sources.hub import _refuse_files_elsewhere
from finetune_trainer.errors import BadConfig, MissingInput
from finetune_trainer.storage import download as module
from finetune_trainer.storage.download import HOSTS, CheckedTransport, download, is_public

from tests.cluster.certificates import Authority
from tests.s3 import free_ports

NAME = "data.example"
ROWS = b'{"a": 1}\n'


class Server:
    """Answers by path; `redirects` says where a path leads. Knows what it was asked, and by which names."""

    def __init__(self, folder: Path, port: int) -> None:
        self.port, self.asked, self.redirects = port, [], {}
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                outer.asked.append((self.headers["Host"], self.path))
                if target := outer.redirects.get(self.path):
                    self.send_response(302)
                    self.send_header("Location", target)
                    self.end_headers()
                    return
                self.send_response(200 if self.path.endswith(".jsonl") else 404)
                self.end_headers()
                if self.path.endswith(".jsonl"):
                    self.wfile.write(ROWS)

            def log_message(self, *_):
                pass

        authority = Authority(folder / "certificates")
        certificate, key = authority.server("server", ["127.0.0.1"], [NAME])
        self.authority = authority.certificate
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    (port,) = free_ports(1)
    made = Server(tmp_path_factory.mktemp("https"), port)
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def server(running, monkeypatch):
    running.asked.clear()
    running.redirects.clear()
    monkeypatch.setenv("SSL_CERT_FILE", str(running.authority))
    for proxy in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    return running


def transport(hosts=(NAME,), **addresses):
    """A transport for which names mean these addresses, `data.example` this machine."""
    known = {NAME: ["127.0.0.1"], **{name.replace("_", "."): found for name, found in addresses.items()}}

    def resolve(host, port):
        if host not in known:
            raise OSError(host)
        return known[host]

    return CheckedTransport(hosts, resolve)


def test_a_file_is_read_by_its_name_at_the_address_that_was_judged(server, tmp_path):
    url = f"https://{NAME}:{server.port}/rows.jsonl"
    # The first address is one at which nobody listens.
    path = download(url, tmp_path, transport(data_example=["127.0.0.2", "127.0.0.1"]))
    assert (path.name, path.read_bytes()) == ("rows.jsonl", ROWS)
    assert server.asked == [(f"{NAME}:{server.port}", "/rows.jsonl")]


def test_a_name_that_means_another_address_the_second_time_leads_nowhere_else(server, tmp_path, monkeypatch):
    answers = [["8.8.8.8"], ["127.0.0.1"]]
    aimed = []
    checked = CheckedTransport((), lambda host, port: answers.pop(0))
    monkeypatch.setattr(checked._direct, "handle_request", lambda request: aimed.append(request) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        download(f"https://{NAME}:{server.port}/rows.jsonl", tmp_path, checked)
    assert [(request.url.host, request.extensions["sni_hostname"]) for request in aimed] == [("8.8.8.8", NAME)]


def test_a_certificate_of_another_name_is_refused(server, tmp_path):
    with pytest.raises(MissingInput, match="can't be downloaded"):
        download(f"https://other.example:{server.port}/rows.jsonl", tmp_path,
                 transport(("other.example",), other_example=["127.0.0.1"]))
    assert server.asked == []


@pytest.mark.parametrize("target", [
    "http://127.0.0.1/rows.jsonl", "http://data.example/rows.jsonl", "file:///etc/passwd", "https://127.0.0.1/x.jsonl",
    "https://metadata.example/latest", "https://[::1]/x", "https://[::ffff:169.254.169.254]/x",
])
def test_a_redirect_is_followed_only_to_where_a_job_could_lead_itself(server, tmp_path, target):
    server.redirects["/start.jsonl"] = target
    checked = CheckedTransport((NAME,), lambda host, port: {
        NAME: ["127.0.0.1"], "metadata.example": ["8.8.8.8", "169.254.169.254"]}.get(host, [host]))
    with pytest.raises(BadConfig, match=r"only https:// is followed|which is not public"):
        download(f"https://{NAME}:{server.port}/start.jsonl", tmp_path, checked)
    assert [path for _, path in server.asked] == ["/start.jsonl"]


def test_redirects_of_one_host_are_followed_and_an_endless_one_is_ended(server, tmp_path):
    server.redirects |= {"/a": "/b?c=1", "/b?c=1": f"https://{NAME}:{server.port}/rows.jsonl", "/loop": "/loop"}
    assert download(f"https://{NAME}:{server.port}/a", tmp_path, transport()).read_bytes() == ROWS
    with pytest.raises(MissingInput, match="redirects more than 5 times"):
        download(f"https://{NAME}:{server.port}/loop", tmp_path, transport())


def test_what_is_not_there_or_too_large_is_a_missing_input(server, tmp_path, monkeypatch):
    with pytest.raises(MissingInput, match="the server answered 404"):
        download(f"https://{NAME}:{server.port}/nothing", tmp_path, transport())
    with pytest.raises(MissingInput, match=r"unknown\.example has no address"):
        download("https://unknown.example/rows.jsonl", tmp_path, transport())
    monkeypatch.setattr(module, "_MAX_BYTES", 3)
    with pytest.raises(MissingInput, match="larger than"):
        download(f"https://{NAME}:{server.port}/rows.jsonl", tmp_path, transport())


def test_allowed_hosts_come_from_the_environment_and_on_ones_own_machine_all_are(server, tmp_path, monkeypatch):
    url = f"https://127.0.0.1:{server.port}/rows.jsonl"
    monkeypatch.delenv(HOSTS, raising=False)
    assert download(url, tmp_path).read_bytes() == ROWS
    monkeypatch.setenv(HOSTS, "A.example,127.0.0.1")
    assert download(url, tmp_path).read_bytes() == ROWS
    for allowed in ("", "a.example"):
        monkeypatch.setenv(HOSTS, allowed)
        with pytest.raises(BadConfig, match=r"127.0.0.1 has the address 127.0.0.1, .*\(allowed.datasetHosts\)"):
            download(url, tmp_path)


@pytest.mark.parametrize(("address", "public"), [
    ("8.8.8.8", True), ("2606:4700::1111", True), ("64:ff9b::808:808", True), ("10.0.0.1", False), ("127.0.0.1", False),
    ("169.254.169.254", False), ("100.100.100.200", False), ("168.63.129.16", False), ("0.0.0.0", False),
    ("192.168.1.1", False), ("224.0.0.1", False), ("255.255.255.255", False), ("::1", False), ("::", False),
    ("fd00:ec2::254", False), ("fe80::1%eth0", False), ("::ffff:10.0.0.1", False), ("::ffff:8.8.8.8", True),
    ("64:ff9b::a00:1", False), ("2002:a00:1::", False), ("ff02::1", False),
])
def test_an_address_is_public_or_not_whatever_it_is_written_in(address, public):
    assert is_public(address) is public


@pytest.mark.parametrize("file", ["/proc/self/environ", "https://10.0.0.1/rows.csv", "zip://a.csv::/data/rows.zip",
                                  "s3://bucket/x"])
def test_a_card_that_names_files_beside_the_hub_is_refused(file):
    source = parse_uri("hf://owner/name", ("hf",))
    on_the_hub = ["hf://datasets/owner/name@0123/train.csv", "zip://a.csv::hf://datasets/owner/name@0123/rows.zip"]
    _refuse_files_elsewhere({"train": on_the_hub}, source)
    with pytest.raises(BadConfig, match="the card of hf://owner/name names the file"):
        _refuse_files_elsewhere({"train": [*on_the_hub, file]}, source)
