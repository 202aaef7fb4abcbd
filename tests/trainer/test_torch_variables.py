"""What torch reads once is set before it is imported, in a pod and by `finetune run`."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from finetune_api.messages import RunConfig

from tests.models import tiny_job
from tests.trainer.pods import configure
from tests.trainer.runs import workshop
from tests.trainer.test_accelerator import L4

ALLOCATOR, ATTENTION = "PYTORCH_ALLOC_CONF", "TORCH_CUDNN_SDPA_DEPRIORITIZED"
NAMES = [ALLOCATOR, "PYTORCH_CUDA_ALLOC_CONF", ATTENTION]
FIRST_IMPORT = f'''
import json, os, sys

class FirstImport:
    def find_spec(self, name, path, target=None):
        if name == "torch":
            print("torch finds", json.dumps({{name: os.environ.get(name) for name in {NAMES}}}), flush=True)
            os._exit(0)

sys.meta_path.insert(0, FirstImport())
'''
POD = "from finetune_trainer.__main__ import main; main(['run', '--config', sys.argv[1]])"
RUN = "from finetune_cli.main import main; sys.argv[1:] = ['run', sys.argv[1]]; main()"
OURS = {ALLOCATOR: "expandable_segments:True", "PYTORCH_CUDA_ALLOC_CONF": None, ATTENTION: "1"}


def found_by_torch(program, argument, environment):
    """The variables at the moment when a program imports torch."""
    own = {name: value for name, value in os.environ.items() if name not in NAMES}
    done = subprocess.run([sys.executable, "-c", FIRST_IMPORT + program, str(argument)], env={**own, **environment},
                          capture_output=True, text=True, timeout=240, check=False)
    assert "torch finds " in done.stdout, done.stdout + done.stderr
    return json.loads(done.stdout.rpartition("torch finds ")[2])


@pytest.mark.parametrize(("users", "found"), [
    ({}, OURS),
    ({ALLOCATOR: "backend:cudaMallocAsync", ATTENTION: "0"},
     {**OURS, ALLOCATOR: "backend:cudaMallocAsync", ATTENTION: "0"}),
    ({"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:64"},
     {**OURS, ALLOCATOR: None, "PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:64"}),
], ids=["none", "the user's", "the user's, by the earlier name"])
def test_in_a_pod(tmp_path, users, found):
    config = configure(tmp_path)
    written = RunConfig.read((config / "run.json").read_text())
    (config / "run.json").write_text(written.model_copy(update={"accelerator": L4}).model_dump_json(exclude_none=True))
    assert found_by_torch(POD, config, users) == found


def test_on_a_laptop(tmp_path):
    job = tmp_path / "job.json"
    job.write_text(json.dumps(tiny_job(workshop(tmp_path))))
    assert found_by_torch(RUN, job, {}) == OURS
