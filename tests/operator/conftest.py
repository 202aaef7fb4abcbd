"""What the operator's tests share: a control plane with FineTuneJobs, whose one node starts pods and ends none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cluster import kwok
from tests.cluster.control_plane import ControlPlane
from tests.cluster.fixtures import needing_this_machine
from tests.operator.api import Api
from tests.operator.operators import Operator
from tests.operator.work import Work

CRD = Path(__file__).parents[2] / "crds" / "finetune.dev_finetunejobs.yaml"
EXPERIMENT_CRD = CRD.with_name("finetune.dev_finetuneexperiments.yaml")
HOUR = 3600.0
CAPACITY = {"cpu": "10000", "memory": "100Ti", "pods": "1000", "nvidia.com/gpu": "1000"}


@contextmanager
def lasting_pods(admission_plugins: Sequence[str] = ()) -> Iterator[ControlPlane]:
    """A control plane whose one node starts pods and ends none, for as long as the context lasts."""
    with needing_this_machine():
        plane = ControlPlane(admission_plugins=admission_plugins)
        try:
            plane.start()
            kwok.play(plane, capacity=CAPACITY, pod_seconds=HOUR)
            yield plane
        finally:
            plane.stop()


@pytest.fixture(scope="session")
def control_plane():
    """One of their own: other tests want pods to stay pending."""
    with lasting_pods() as plane:
        plane.kubectl("apply", "--server-side", "-f", CRD, "-f", EXPERIMENT_CRD)
        plane.kubectl("wait", "--for=condition=Established", "crd/finetunejobs.finetune.dev",
                      "crd/finetuneexperiments.finetune.dev", "--timeout=30s")
        yield plane


@pytest.fixture(scope="session")
def api(control_plane):
    """The apiserver."""
    connection = Api(control_plane)
    yield connection
    connection.close()


@pytest.fixture
def operator(control_plane, api, namespace):
    """An operator that serves the test's namespace."""
    running = Operator(control_plane, namespace)
    yield running
    running.stop()


@pytest.fixture
def work(api, namespace):
    """The job."""
    return Work(api, namespace)
