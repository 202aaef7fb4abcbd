"""`finetune-trainer run --config DIR`, as a pod starts it, and the reference model that an evaluation may ask."""

import json
import os
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from finetune_api import parse_job, resolve_defaults, spec_hash
from finetune_api.exit_codes import ExitCode
from finetune_api.messages import RESULT_BYTES, Accelerator, Limits, Outcome, PreflightResult, Result, RunConfig
from finetune_trainer.data.rows import EvaluationRow, Example, TokenRow
from finetune_trainer.errors import MissingInput
from finetune_trainer.evaluation.reference import ask_reference

from tests.cluster.waiting import wait_for
from tests.models import tiny_job
from tests.trainer.runs import workshop


def _start(config, *more):
    return subprocess.run([sys.executable, "-m", "finetune_trainer", "run", "--config", str(config), "--port", "0",
                           *map(str, more)], capture_output=True, text=True, timeout=240, check=False,
                          env={**os.environ, "HF_HUB_OFFLINE": "1"})


def test_a_pod_runs_its_configuration_obeys_its_limits_and_leaves_its_result(tmp_path):
    folder = workshop(tmp_path)
    spec = resolve_defaults(parse_job(tiny_job(folder)).spec)
    config, limits, log = folder / "config", folder / "limits", folder / "termination-log"
    config.mkdir()
    limits.mkdir()
    content = json.loads(RunConfig(
        namespace="team", name="tiny", uid="0123-abcd", attempt=2, spec=spec, spec_hash=spec_hash(spec),
        accelerator=Accelerator(name="cpu", hourly_rate="1.00"),
    ).model_dump_json(exclude_none=True))
    # As an operator of a later release writes it.
    content["spec"]["training"]["fieldOfTheFuture"] = content["fieldOfTheFuture"] = {"a": [1]}
    (config / "run.json").write_text(json.dumps(content))
    (limits / "limits.json").write_text(Limits(stop=True).model_dump_json())
    done = _start(config, "--limits", limits, "--termination-log", log)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(log.read_bytes()) <= RESULT_BYTES
    result = Result.model_validate_json(log.read_bytes())
    assert result.outcome is Outcome.STOPPED_EARLY
    assert "it was asked to stop and publish" in result.message
    assert (folder / "out/team/tiny/0123-abcd/results/2/adapter/adapter_model.safetensors").exists()


@pytest.mark.parametrize(("content", "message"), [
    (None, "No such file or directory"),
    ('{"namespace": "team"}', "name: Field required"),
], ids=["missing", "broken"])
def test_a_configuration_that_cannot_be_read_ends_with_64(tmp_path, content, message):
    if content:
        (tmp_path / "run.json").write_text(content)
    log = tmp_path / "log"
    done = _start(tmp_path, "--termination-log", log)
    assert done.returncode == 64, done.stderr
    assert message in json.loads(log.read_bytes())["message"]
    assert "Traceback" not in done.stderr


def _pipe_that_is_read(path):
    """The writing end of a pipe, whose reader waits for its end; None before there is one."""
    try:
        return os.fdopen(os.open(path, os.O_WRONLY | os.O_NONBLOCK), "wb")
    except OSError:
        return None


def test_a_check_that_is_asked_to_stop_ends_at_once_and_says_so(tmp_path):
    os.mkfifo(tmp_path / "run.json")
    log = tmp_path / "log"
    check = subprocess.Popen([sys.executable, "-m", "finetune_trainer", "preflight", "--config", str(tmp_path),
                              "--termination-log", str(log)])
    with wait_for(lambda: _pipe_that_is_read(tmp_path / "run.json"), "the check to read"):
        check.send_signal(signal.SIGTERM)
        assert check.wait(60) == ExitCode.STOPPED, "without a handler, the first process of a container would go on"
    assert PreflightResult.model_validate_json(log.read_bytes()).reason is Outcome.STOPPED


@pytest.fixture
def endpoint():
    """An OpenAI-compatible endpoint on loopback; it stands for GPT-4, which cannot be reached from a test."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append((self.path, self.headers["Authorization"], body))
            known = body["model"] == "gpt-4"
            answer = json.dumps({"choices": [{"message": {"content": '{"level": 1}'}}]} if known else {}).encode()
            self.send_response(200 if known else 404)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1", asked
    server.shutdown()
    server.server_close()
    thread.join()


def _rows():
    return [EvaluationRow(Example(f"test row {n}", ({"role": "user", "content": f"case {n}"},), f'{{"level": {n}}}'),
                          TokenRow((1,), (2,))) for n in (1, 2)]


def _spec(url, model="gpt-4"):
    return resolve_defaults(parse_job(tiny_job(
        Path("/nowhere"), dataset={"system": "be brief"},
        evaluation={"reference": {"url": url, "model": model}})).spec)


def test_a_reference_model_answers_the_same_questions_and_is_scored(endpoint, monkeypatch):
    url, asked = endpoint
    monkeypatch.setenv("OPENAI_API_KEY", "canary-key")
    scores = ask_reference(_spec(url), _rows(), lambda: None)
    assert scores["fieldsMatch"] == 0.5
    assert scores["jsonValid"] == 1.0
    assert "loss" not in scores
    path, authorization, body = asked[0]
    assert (path, authorization) == ("/v1/chat/completions", "Bearer canary-key")
    assert body["messages"] == [{"role": "system", "content": "be brief"}, {"role": "user", "content": "case 1"}]


def test_a_reference_model_that_is_not_there_is_said_without_the_key(endpoint, monkeypatch):
    url, _ = endpoint
    monkeypatch.setenv("OPENAI_API_KEY", "canary-key")
    with pytest.raises(MissingInput, match="answered 404 for model nobody; check url, model and the key") as caught:
        ask_reference(_spec(url, "nobody"), _rows(), lambda: None)
    assert "canary" not in str(caught.value)
