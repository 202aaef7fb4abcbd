"""What the chart's tests share: a control plane on which nothing of this project is yet, and helm."""

from __future__ import annotations

import pytest

from tests.chart.release import Release, helm
from tests.cluster.fixtures import needing_this_machine
from tests.operator.api import Api
from tests.operator.conftest import lasting_pods


@pytest.fixture(scope="session")
def control_plane():
    """One that also checks owner references, as some clusters do; its one node starts pods and ends none."""
    with needing_this_machine():
        helm("version")
    with lasting_pods(["OwnerReferencesPermissionEnforcement"]) as plane:
        yield plane


@pytest.fixture(scope="session")
def api(control_plane):
    """The apiserver, as an administrator."""
    connection = Api(control_plane)
    yield connection
    connection.close()


@pytest.fixture(scope="module")
def release(control_plane):
    """The chart, installed with its own values; gone after the module, the jobs' definition included."""
    installed = Release(control_plane, control_plane.namespace("finetune"))
    installed.install()
    yield installed
    installed.remove()
