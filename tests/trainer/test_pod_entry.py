"""`finetune-trainer run --config DIR`, as a pod starts it, and the reference model that an evaluation may ask."""

import json
import os
import signal
import subprocess
import sys
from decimal import Decimal

import pytest
from finetune_api import parse_job, resolve_defaults, spec_hash
from finetune_api.exit_codes import ExitCode
from finetune_api.messages import RESULT_BYTES, Accelerator, Limits, Outcome, PreflightResult, Result, RunConfig

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
        accelerator=Accelerator(name="cpu", hourly_rate=Decimal("1.00")),
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
    # The pipe is closed by now: a signal that came just before the check began to wait for data would not wake it.
    assert check.wait(60) == ExitCode.STOPPED, "without a handler, the first process of a container would go on"
    assert PreflightResult.model_validate_json(log.read_bytes()).reason is Outcome.STOPPED
