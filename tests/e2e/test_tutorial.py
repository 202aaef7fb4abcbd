"""The tutorial's second part, command by command, on a real cluster."""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.cluster.binaries import command
from tests.docs.tutorial import ROOT, Tutorial

PAGE = ROOT / "docs" / "tutorial" / "cluster.md"


@pytest.fixture
def without_an_operator(environment):
    """The cluster as it is before the tutorial: the tests' operator comes back after it."""
    environment.installed.remove()
    yield environment
    environment.installed.install()


def _programs(folder):
    """A folder with kubectl and helm as the tests have them."""
    folder.mkdir()
    for name in ("kubectl", "helm"):
        script = folder / name
        script.write_text(f'#!/bin/sh\nexec {" ".join(command(name))} "$@"\n')
        script.chmod(0o755)
    return folder


@pytest.mark.timeout(3600)
def test_every_command_of_the_cluster_tutorial_does_what_the_page_says(without_an_operator, tmp_path):
    environment = without_an_operator
    (tmp_path / "clone").mkdir()
    tutorial = Tutorial(PAGE, tmp_path / "clone")
    subprocess.run(["make", "-s", "inputs"], cwd=tmp_path / "clone", check=True)
    keys = environment.s3.environment(environment.s3.admin)  # A reader creates the buckets.
    printed = tutorial.follow({
        **keys, "OPERATOR_IMAGE": environment.cluster.image("operator"), "TRAINER_IMAGE": environment.image,
        "S3_ENDPOINT": environment.s3.endpoint, "KUBECONFIG": str(environment.cluster.control_plane.kubeconfig),
        "HOME": str(tmp_path), "PATH": f"{_programs(tmp_path / 'bin')}:{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}",
    }, seconds=3000)
    assert "trained 8 steps and published the adapter" in printed
    assert "s3://adapters/team-a/first/" in printed
    assert "abacus" in printed.rpartition("condition=Validated=false")[2]
