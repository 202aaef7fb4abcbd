"""The reference model behind a server that nobody here wrote: `transformers serve`, with a tiny model and no network.

It needs what `pip install "transformers[serving]"` installs; without it these tests are skipped.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from finetune_api.values.uris import parse_uri
from finetune_trainer.clock import SystemClock
from finetune_trainer.errors import BadConfig
from finetune_trainer.evaluation.reference.asking import check_reference
from finetune_trainer.evaluation.reference.endpoint import RequestLimits
from finetune_trainer.storage import open_storage
from transformers.utils.import_utils import is_serve_available

from tests.models import save_tiny_model
from tests.s3 import free_ports
from tests.trainer.test_reference import compare, rows, spec

PATIENT = RequestLimits(total_seconds=120.0)

pytestmark = pytest.mark.skipif(not is_serve_available(), reason="transformers[serving] is not installed")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A running server: its process, the address of its API, and the name of its model."""
    folder = save_tiny_model(tmp_path_factory.mktemp("served") / "model")
    port = free_ports(1)[0]
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(folder), "--host", "127.0.0.1",
               "--port", str(port), "--device", "cpu"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            lines = []
            for line in process.stdout:
                lines.append(line)
                if "Uvicorn running on" in line:
                    break
            else:
                pytest.fail("".join(lines))
            yield process, f"http://127.0.0.1:{port}/v1", str(folder)
        finally:
            process.kill()


def test_a_server_that_nobody_here_wrote_is_asked_once_and_its_answers_outlive_it(server, tmp_path):
    process, url, model = server
    asked = spec(url, model)
    assert check_reference(asked, rows(1), SystemClock()) is None
    with pytest.raises(BadConfig, match=r"\(model gpt-4\) answered 400; check url, model"):
        check_reference(spec(url), rows(1), SystemClock())
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
