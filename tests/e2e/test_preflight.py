"""The check before the start on real pods: what can't work is refused before any accelerator is asked for."""

from __future__ import annotations

import json
from datetime import datetime

import pytest

from tests.cluster.waiting import wait_for
from tests.e2e.test_end_to_end import Job, assert_published
from tests.models import save_tiny_model

pytestmark = pytest.mark.timeout(1800)
CHECK = {"preflight": "Required"}
SEVEN_BILLION = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
                 "intermediate_size": 14336, "vocab_size": 32000, "head_dim": 128}


@pytest.fixture
def large(environment, tmp_path):
    """A model of seven billion parameters in S3: configuration and tokenizer, and no weights."""
    folder = save_tiny_model(tmp_path / "seven-billion")
    (folder / "model.safetensors").unlink()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **SEVEN_BILLION}))
    environment.upload(tmp_path, "in")
    return {"source": f"s3://{environment.bucket}/in/seven-billion"}


def test_a_job_that_cannot_fit_an_l4_is_refused_and_the_fixed_one_accepted_on_the_same_object(
        environment, operator, large):
    job = Job(environment).apply(model=large, training={"precision": "float32"}, runPolicy=CHECK)
    status = job.until("Pending", "OutOfMemory")
    assert job.telling()["message"].endswith("write spec.method.quantization: nf4")
    assert "nvidia-l4 has 24 GiB" in job.telling()["message"]
    assert "startTime" not in status
    wait_for(lambda: job.pods() == [], "the check's pod to leave")
    job.change(model={"source": f"s3://{environment.bucket}/in/tiny"}, method={"quantization": "nf4"},
               training={"precision": None})
    status = job.until("Succeeded")
    assert_published(job)
    assert status["memory"]["estimatedBytes"] < 2**30
    assert [one["number"] for one in status["attempts"]] == [1]

    # The image is on the node by now, as it is in a cluster in use: refused within a minute of apply.
    again = Job(environment, "again").apply(model=large, training={"precision": "float32"}, runPolicy=CHECK)
    status = again.until("Pending", "OutOfMemory")
    applied = environment.api.get("FineTuneJob", again.namespace, again.name)["metadata"]["creationTimestamp"]
    refused = next(one for one in status["conditions"] if one["type"] == "Validated")["lastTransitionTime"]
    seconds = (datetime.fromisoformat(refused) - datetime.fromisoformat(applied)).total_seconds()
    print(f"refused {seconds:.0f} s after apply")  # noqa: T201
    assert seconds <= 60
