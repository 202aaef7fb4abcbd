"""The reference model behind a server that nobody here wrote: `transformers serve`, with a tiny model and no network.

It never answers 429, and it is never busy for long. So a proxy passes its answers on, after some that it refuses or
breaks; and a signal makes the server itself stand still.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from finetune_api.values.uris import parse_uri
from finetune_trainer.clock import SystemClock
from finetune_trainer.errors import BadConfig
from finetune_trainer.evaluation.reference.asking import check_reference
from finetune_trainer.evaluation.reference.endpoint import Endpoint, RequestLimits, Unanswered
from finetune_trainer.storage import open_storage

from tests.models import save_tiny_model
from tests.s3 import free_ports
from tests.trainer.endpoints import endpoint
from tests.trainer.test_reference import compare, rows, spec

pytestmark = pytest.mark.slow

PATIENT = RequestLimits(total_seconds=120.0, pause_seconds=0.0)
SHORT = 8
"""Tokens of an answer. The random model never ends one itself."""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A running server: its process, the address of its API, and the name of its model. The last test kills it."""
    folder = save_tiny_model(tmp_path_factory.mktemp("served") / "model")
    port = free_ports(1)[0]
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(folder), "--host", "127.0.0.1",
               "--port", str(port), "--device", "cpu"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        rest = threading.Thread(target=process.stdout.read)  # A full pipe would stop the server.
        try:
            lines = []
            for line in process.stdout:
                lines.append(line)
                if "Uvicorn running on" in line:
                    break
            else:
                pytest.fail("".join(lines))
            rest.start()
            yield process, f"http://127.0.0.1:{port}/v1", str(folder)
        finally:
            process.kill()
            if rest.ident is not None:
                rest.join()


@pytest.fixture(scope="module")
def untroubled(server):
    """The result of asking the server itself."""
    _, url, model = server
    result = compare(url, 2, patience=PATIENT, model=model)
    assert set(result.answers) == {0, 1}
    return result


def ask(url, model, max_tokens, limits, wait=lambda seconds: False):
    """The answer to one question, asked directly."""
    reference = spec(url, model).evaluation.reference
    with closing(Endpoint(reference, max_tokens, limits, SystemClock().seconds, wait)) as asked:
        return asked.ask(({"role": "user", "content": "case 1"},))


def test_the_check_accepts_the_served_model_and_rejects_another(server):
    _, url, model = server
    assert check_reference(spec(url, model), rows(1), SystemClock()) is None
    with pytest.raises(BadConfig, match=r"\(model gpt-4\) answered 400; check url, model"):
        check_reference(spec(url), rows(1), SystemClock())


@pytest.mark.parametrize("trouble", ["429", "500", "truncated", "no answer"])
def test_answers_that_fail_on_their_way_are_asked_for_again_and_leave_no_trace(server, untroubled, trouble):
    _, address, model = server

    def pass_on(body, number, handler):
        response = httpx.post(f"{address}/chat/completions", json=body, timeout=120)
        if number >= 2:
            return response.status_code, response.content
        if trouble.isdecimal():
            return int(trouble), b'{"error": "later"}', ("Retry-After", "0")
        if trouble == "truncated":
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(response.content)))
            handler.end_headers()
            handler.wfile.write(response.content[:len(response.content) // 2])
        handler.close_connection = True
        return None

    with endpoint(pass_on) as (url, asked):
        assert compare(url, 2, patience=PATIENT, model=model) == untroubled
    assert len(asked) == 4


def test_a_request_that_the_server_itself_fails_at_is_given_up_after_its_tries(server):
    _, url, model = server
    with pytest.raises(Unanswered, match=r"gave no answer after 3 tries \(it answered 500\)"):
        ask(url, model, 0, RequestLimits(tries=3, pause_seconds=0.0))


def test_a_server_that_stands_still_is_asked_again_and_answers_when_it_goes_on(server):
    process, url, model = server
    pauses = []

    def go_on(seconds):
        pauses.append(seconds)
        process.send_signal(signal.SIGCONT)
        return False

    process.send_signal(signal.SIGSTOP)
    try:
        hurried = RequestLimits(request_seconds=0.2, tries=2, pause_seconds=0.0)
        with pytest.raises(Unanswered, match=r"gave no answer after 2 tries \(ReadTimeout\)"):
            ask(url, model, SHORT, hurried)
        patient = RequestLimits(request_seconds=2.0, tries=10, pause_seconds=0.0)
        answer = ask(url, model, SHORT, patient, go_on)
    finally:
        process.send_signal(signal.SIGCONT)
    assert pauses, "the first try got no answer"
    assert answer == ask(url, model, SHORT, PATIENT)


def test_a_server_is_asked_once_and_its_answers_outlive_it(server, tmp_path):
    process, url, model = server
    output = open_storage(parse_uri(f"file://{tmp_path}/out", ("file",)), None), "team/reference-answers"
    first = compare(url, 2, output, PATIENT, model=model)
    assert first.scores, first.findings
    assert first.scores["jsonValid"] == 0.0, "a random model writes no JSON"
    assert "2 of the reference model's answers were cut at 256 tokens" in first.findings[0]
    process.kill()
    process.wait()
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)
    assert compare(url, 2, output, PATIENT, model=model) == first
