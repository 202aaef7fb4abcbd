"""Fixtures: a control plane, a namespace of it, and clusters with real nodes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.cluster.binaries import Unavailable
from tests.cluster.cluster import Cluster
from tests.cluster.control_plane import ControlPlane
from tests.cluster.existing import ExistingCluster


@contextmanager
def needing_this_machine() -> Iterator[None]:
    """What is missing skips a test on a developer's machine, and fails it in CI, which must not pass by skipping."""
    try:
        yield
    except Unavailable as missing:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"NOT TESTED: {missing}")


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    """A control plane without nodes, one a worker."""
    plane = ControlPlane()
    try:
        with needing_this_machine():
            plane.start()
        yield plane
    finally:
        plane.stop()


@pytest.fixture
def namespace(control_plane: ControlPlane) -> str:
    """A fresh namespace, ready for pods."""
    return control_plane.namespace()


@pytest.fixture(scope="session")
def real_node() -> Iterator[Cluster]:
    """A cluster with one real node that offers one accelerator."""
    yield from _cluster(1)


@pytest.fixture(scope="session")
def two_nodes() -> Iterator[Cluster]:
    """A cluster with two real nodes that offer one accelerator each."""
    yield from _cluster(2)


@pytest.fixture(scope="session")
def node(request: pytest.FixtureRequest) -> Iterator[Cluster | ExistingCluster]:
    """The cluster of KUBECONFIG where one is set, for tests that need no power over its nodes; else as `real_node`."""
    if "KUBECONFIG" not in os.environ:
        yield request.getfixturevalue("real_node")
        return
    with needing_this_machine():
        cluster = ExistingCluster()
    try:
        yield cluster
    finally:
        cluster.stop()


def _cluster(nodes: int) -> Iterator[Cluster]:
    with needing_this_machine():
        cluster = Cluster(nodes)
    try:
        yield cluster
    finally:
        cluster.stop()
