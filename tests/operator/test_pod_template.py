"""An administrator's pod template: merged as Kubernetes merges, into trainers alone."""

from __future__ import annotations

import pytest
from finetune_operator.settings import Settings
from pydantic import ValidationError

from tests.operator.objects import created, decide, raw_job, started

CHECKED = {"runPolicy": {"preflight": "Required"}}


def pods(**settings):
    """The pod templates of a trainer and of a check with these settings."""
    read = Settings.model_validate({"trainerImage": "registry/trainer:1", **settings}, strict=False)
    return [created(decide(one, settings=read), "Job")["spec"]["template"]
            for one in (raw_job(started()), raw_job(**CHECKED))]


def of_trainer(container=None, **spec):
    """A template with something in the container `trainer` and in the pod."""
    return {"spec": {**spec, "containers": [{"name": "trainer", **(container or {})}]}}


def named(items, by="name"):
    return {one[by]: one for one in items}


def test_what_a_template_adds_stands_beside_what_is_there():
    template = {"metadata": {"labels": {"team": "a"}}, "spec": {
        "containers": [{"name": "trainer", "env": [{"name": "HTTPS_PROXY", "value": "http://p"}]},
                       {"name": "sidecar", "image": "s"}]}}
    made = pods(podTemplate=template)[0]
    assert made["metadata"]["labels"]["team"] == "a"
    trainer, sidecar = made["spec"]["containers"]
    assert sidecar == {"name": "sidecar", "image": "s"}
    assert {"name": "HTTPS_PROXY", "value": "http://p"} in trainer["env"]
    assert {"name": "HOME", "value": "/tmp"} in trainer["env"]


def test_a_mount_at_another_path_moves_none():
    trainer = pods(podTemplate=of_trainer({"volumeMounts": [
        {"name": "cache", "mountPath": "/extra"}, {"name": "nvme", "mountPath": "/tmp/"}]}))[0]["spec"]["containers"][0]
    mounts = named(trainer["volumeMounts"], "mountPath")
    assert (mounts["/cache"]["name"], mounts["/extra"]["name"]) == ("cache", "cache")
    assert "/tmp" not in mounts and mounts["/tmp/"]["name"] == "nvme", "one mount for each path"


@pytest.mark.parametrize(("volume", "expected"), [
    ({"name": "cache", "hostPath": {"path": "/nvme"}}, {"name": "cache", "hostPath": {"path": "/nvme"}}),
    ({"name": "shm", "emptyDir": {"sizeLimit": "1Gi"}},
     {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}}),
])
def test_a_volume_has_one_source(volume, expected):
    assert named(pods(podTemplate=of_trainer(volumes=[volume]))[0]["spec"]["volumes"])[volume["name"]] == expected


def test_a_variable_has_one_source():
    secret = {"name": "HOME", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}
    template = of_trainer({"env": [secret, {"name": "TMPDIR", "value": "/x"}]})
    variables = named(pods(podTemplate=template)[0]["spec"]["containers"][0]["env"])
    assert (variables["HOME"], variables["TMPDIR"]) == (secret, {"name": "TMPDIR", "value": "/x"})


RDMA = {"resources": {"limits": {"rdma/hca": "1"}}, "volumeMounts": [{"name": "ib", "mountPath": "/dev/infiniband"}]}


def test_what_belongs_to_a_trainers_node_is_not_in_a_check():
    template = of_trainer(RDMA, runtimeClassName="nvidia", nodeSelector={"pool": "gpu"}, hostNetwork=True,
                          volumes=[{"name": "ib", "hostPath": {"path": "/dev/infiniband"}}])
    template["spec"]["containers"].append({"name": "sidecar", "image": "s"})
    template["metadata"] = {"annotations": {"k8s.v1.cni.cncf.io/networks": "rdma"}}
    trainer, check = pods(podTemplate=template)
    assert trainer["spec"]["runtimeClassName"] == "nvidia"
    assert trainer["spec"]["containers"][0]["resources"]["limits"]["rdma/hca"] == "1"
    assert check == pods()[1]


def test_a_proxy_and_an_authoritys_certificates_reach_the_check_too():
    template = of_trainer(
        {"env": [{"name": "HTTPS_PROXY", "value": "http://p"}], "volumeMounts": [{"name": "ca", "mountPath": "/ca"}]},
        volumes=[{"name": "ca", "configMap": {"name": "ca"}}], imagePullSecrets=[{"name": "registry"}])
    check = pods(podTemplate=template)[1]["spec"]
    assert {"name": "HTTPS_PROXY", "value": "http://p"} in check["containers"][0]["env"]
    assert named(check["volumes"])["ca"] == {"name": "ca", "configMap": {"name": "ca"}}
    assert named(check["containers"][0]["volumeMounts"], "mountPath")["/ca"]["name"] == "ca"
    assert check["imagePullSecrets"] == [{"name": "registry"}]


def test_a_check_has_a_template_of_its_own_where_one_is_set():
    own = {"metadata": {"annotations": {"sidecar.istio.io/inject": "false"}}}
    trainer, check = pods(podTemplate=of_trainer({"env": [{"name": "HTTPS_PROXY", "value": "http://p"}]}),
                          preflight={"podTemplate": own})
    assert check["metadata"]["annotations"] == own["metadata"]["annotations"]
    assert "HTTPS_PROXY" not in named(check["spec"]["containers"][0]["env"])
    assert "annotations" not in trainer["metadata"]


def test_an_accelerator_has_a_template_of_its_own_which_comes_last():
    catalogue = {name: {"podTemplate": {"spec": {"runtimeClassName": name}}} for name in ("nvidia-l4", "other")}
    trainer, check = pods(accelerators=catalogue, podTemplate=of_trainer(runtimeClassName="all", hostIPC=True))
    assert (trainer["spec"]["runtimeClassName"], trainer["spec"]["hostIPC"]) == ("nvidia-l4", True)
    assert "runtimeClassName" not in check["spec"]


@pytest.mark.parametrize(("template", "words"), [
    ({"containers": [{"name": "trainer"}]}, "has metadata and spec, not containers"),
    ({"spec": {"containers": {"name": "trainer"}}}, "spec.containers is a list of objects, each with a name"),
    ({"spec": {"containers": [{"env": []}]}}, "spec.containers is a list of objects, each with a name"),
    ({"spec": {"containers": [{"name": "trainer", "env": {"A": "b"}}]}}, r"spec.containers\[\].env is a list"),
    ({"spec": {"containers": [{"name": "trainer", "volumeMounts": [{"name": "x"}]}]}}, "each with a mountPath"),
    ({"spec": []}, "spec is an object"),
])
@pytest.mark.parametrize("where", ["podTemplate", "preflight", "accelerators"])
def test_a_template_that_would_be_merged_into_nothing_is_refused(where, template, words):
    settings = {"podTemplate": template, "preflight": {"podTemplate": template},
                "accelerators": {"nvidia-l4": {"podTemplate": template}}}
    with pytest.raises(ValidationError, match=words):
        Settings.model_validate({where: settings[where]}, strict=False)
