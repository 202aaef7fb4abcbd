"""What the pods of a job request from their nodes, and what they may use at most."""

from __future__ import annotations

import pytest
from finetune_operator.settings import Settings

from tests.operator.objects import (
    created,
    decide,
    raw_attempt,
    raw_check,
    raw_check_pod,
    raw_job,
    raw_pod,
    reported,
    started,
)

CHECKED = {"runPolicy": {"preflight": "Required"}}


def pods(job=None, **settings):
    """The pods of a trainer and of a check with these settings."""
    read = Settings.model_validate({"trainerImage": "registry/trainer:1", **settings}, strict=False)
    return [created(decide(one, settings=read), "Job")["spec"]["template"]["spec"]
            for one in (raw_job(started(), **(job or {})), raw_job(**CHECKED, **(job or {})))]


@pytest.mark.parametrize("pod", pods(), ids=["trainer", "check"])
def test_a_pod_can_fill_no_nodes_disk(pod):
    (container,) = pod["containers"]
    limit = container["resources"]["limits"]["ephemeral-storage"]
    folders = {one["name"]: one["emptyDir"] for one in pod["volumes"] if "emptyDir" in one}
    assert set(folders) == {"tmp", "cache", "shm"}
    assert folders.pop("shm") == {"medium": "Memory", "sizeLimit": container["resources"]["limits"]["memory"]}
    assert all(one == {"sizeLimit": limit} for one in folders.values())
    # Without one the limit would be the request, and no node that does not tell its disk would take it.
    assert container["resources"]["requests"]["ephemeral-storage"] == "0"


def test_an_accelerator_and_the_check_have_disks_of_their_own():
    catalogue = {"nvidia-l4": {"ephemeralStorage": "2Ti", "ephemeralStorageRequest": "500Gi"}}
    trainer, check = pods(job={"compute": {"gpusPerNode": 2}}, accelerators=catalogue,
                          preflight={"ephemeralStorage": "10Gi"})
    resources = trainer["containers"][0]["resources"]
    assert resources["limits"]["ephemeral-storage"] == f"{4 * 2**40 * 1000}m", "for each accelerator"
    assert resources["requests"]["ephemeral-storage"] == f"{1000 * 2**30 * 1000}m"
    assert check["containers"][0]["resources"]["limits"]["ephemeral-storage"] == "10Gi"


def test_a_model_cache_on_a_claim_uses_no_empty_dir():
    for pod in pods(modelCacheClaim="models"):
        (cache,) = [one for one in pod["volumes"] if one["name"] == "cache"]
        assert cache == {"name": "cache", "persistentVolumeClaim": {"claimName": "models"}}


def test_a_pod_that_filled_its_disk_names_the_setting_that_gives_it_more():
    words = 'Usage of EmptyDir volume "cache" exceeds the limit "200Gi".'
    pod = raw_pod(exit_code=137, ended_by=("Evicted", words))
    told = reported(decide(raw_job(started()), raw_attempt(ended="Failed"), pod, at=70))[2]
    assert words in told and "ephemeralStorage of the accelerator" in told
    check = raw_check_pod(exit_code=137, ended_by=("Evicted", words))
    told = reported(decide(raw_job(**CHECKED), raw_check(ended="Failed"), check, at=70))[2]
    assert words in told and "preflight.ephemeralStorage" in told
