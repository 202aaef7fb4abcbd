"""Fixtures that several folders of tests share."""

from __future__ import annotations

import os

import pytest

pytest_plugins = ["tests.cluster.fixtures"]

LONGEST = ("tests/e2e/", "tests/trainer/")
"""Begun first, so that no worker has a long file left when the others are done."""

# Nothing in a test may reach for the network; set before transformers or datasets are imported.
os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TQDM_DISABLE="1",
                  HF_HUB_DISABLE_TELEMETRY="1", TOKENIZERS_PARALLELISM="false")
# Workers share the cores: threads that wait for one whose core another worker has got take many times as long. Set
# before torch is imported, too, and not by who starts the workers: they would get that one's number.
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(
        os.environ["PYTEST_XDIST_WORKER_COUNT"]))))


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory):
    """A random Llama of two layers with a byte-level tokenizer."""
    from tests.models import save_tiny_model

    return save_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory):
    """A real S3 server, one a worker."""
    from tests.s3 import running_server

    with running_server(tmp_path_factory.mktemp("seaweedfs")) as server:
        yield server


@pytest.fixture
def s3_bucket(s3_server, monkeypatch):
    """A fresh bucket, with the credentials for it in the environment."""
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    return s3_server.new_bucket()


def pytest_collection_modifyitems(items):
    """The longest first."""
    items.sort(key=lambda item: next((place for place, start in enumerate(LONGEST) if item.nodeid.startswith(start)),
                                     len(LONGEST)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """A worker takes a whole file, for what its tests share; and all of tests/e2e, which share a node."""
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid):
            return LONGEST[0] if nodeid.startswith(LONGEST[0]) else super()._split_scope(nodeid)

    config.option.loadscopereorder = False
    return ByFile(config, log)
