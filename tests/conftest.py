"""Fixtures that several folders of tests share."""

from __future__ import annotations

import os
import re

import pytest

pytest_plugins = ["tests.cluster.fixtures"]

LONGEST = ("tests/e2e/", "tests/trainer/")
"""Begun first, so that no worker has a long file left when the others are done."""

_CLUSTER_FIXTURES = {"control_plane", "node", "real_node", "two_nodes"}
_SLOW_IMPORTS = re.compile(
    r"^(?:from|import) tests\.(?:trainer\.(?:runs|pods|shards|cards)|cluster\b|chart\b|e2e\b|operator\.operators)",
    re.MULTILINE)
"""What a module imports to start training runs, operators and clusters."""

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


def pytest_addoption(parser):
    """`--fast`, for `make test-fast`."""
    parser.addoption("--fast", action="store_true", help="only tests that start no training run, no operator and no "
                                                         "cluster, and are not marked slow")


def is_fast(item):
    """Whether a test starts no training run, no operator and no cluster."""
    return not (_CLUSTER_FIXTURES & set(item.fixturenames) or item.get_closest_marker("slow")
                or _SLOW_IMPORTS.search(item.path.read_text(encoding="utf-8")))


def pytest_collection_modifyitems(config, items):
    """The longest first; with `--fast` the fast ones alone."""
    if config.getoption("--fast"):
        config.hook.pytest_deselected(items=[item for item in items if not is_fast(item)])
        items[:] = [item for item in items if is_fast(item)]
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
