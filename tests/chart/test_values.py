"""What the chart makes of values: rendered by the real helm, without a cluster."""

from __future__ import annotations

import re

import pytest
import yaml
from finetune_operator.settings import Settings

from charts.generate import CHART
from tests.chart.release import HelmFailed, helm, only, render
from tests.cluster.fixtures import needing_this_machine

VALUES = (CHART / "values.yaml").read_text()
MONITORED = {"monitoring": {name: {"enabled": True} for name in (
    "podMonitor", "trainerMonitor", "prometheusRule", "dashboard")}}


@pytest.fixture(scope="module", autouse=True)
def built():
    with needing_this_machine():
        helm("version")


@pytest.fixture(scope="module")
def objects():
    """What the chart's own values make."""
    return render()


def settings_of(objects):
    return yaml.safe_load(only(objects, "ConfigMap", "-settings")["data"]["settings.yaml"])


def test_helm_finds_nothing_to_complain_about():
    assert "0 chart(s) failed" in helm("lint", "--strict", CHART)


def test_the_charts_settings_are_the_operators_defaults_but_for_what_it_alone_knows(objects):
    read = Settings.model_validate(settings_of(objects), strict=False)
    network = read.trainer_network
    assert [peer.namespace_labels["kubernetes.io/metadata.name"] for peer in network.scrapers] == [
        "finetune-system", "monitoring"]
    assert read.model_copy(update={"trainer_network": None}) == Settings()
    assert network.model_copy(update={"scrapers": ()}) == type(network)()


def test_every_setting_is_in_the_values():
    known = {field.alias for field in Settings.model_fields.values()} - {"trainerImage", "unslothImage"}
    assert known - set(yaml.safe_load(VALUES)["settings"]) == set()


def test_every_value_is_explained():
    unexplained = []
    for paragraph in VALUES.split("\n\n"):
        explained = False
        for line in paragraph.splitlines():
            explained |= line.strip().startswith("#")
            if not explained and re.match(r" {0,2}\w+: .", line):
                unexplained.append(line)
    assert unexplained == []


def test_the_deployment_is_restricted_and_asks_for_what_it_needs(objects):
    pod = only(objects, "Deployment")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"] == {"runAsNonRoot": True, "runAsUser": 65532, "runAsGroup": 65532,
                                      "seccompProfile": {"type": "RuntimeDefault"}}
    assert container["securityContext"] == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                                            "capabilities": {"drop": ["ALL"]}}
    assert {"requests", "limits"} <= set(container["resources"])
    assert {"startupProbe", "livenessProbe", "readinessProbe"} <= set(container)


def rules(objects):
    return [rule for one in objects if one["kind"] in ("Role", "ClusterRole") for rule in one["rules"]]


@pytest.mark.parametrize("values", [{}, {"namespaces": ["team-a"]}])
def test_no_role_reaches_secrets_pods_or_other_powers(values):
    for rule in rules(render(values)):
        assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]], rule
        assert not {"secrets", "serviceaccounts", "roles", "rolebindings", "nodes"} & set(rule["resources"]), rule
        if "pods" in rule["resources"]:
            assert set(rule["verbs"]) <= {"get", "list", "watch"}
        assert not {"escalate", "bind", "impersonate"} & set(rule["verbs"])


def test_in_chosen_namespaces_there_is_no_role_for_the_whole_cluster():
    objects = render({"namespaces": ["team-a", "team-b"]})
    assert [one for one in objects if one["kind"] == "ClusterRoleBinding"] == []
    assert {one["metadata"]["name"] for one in objects if one["kind"] == "ClusterRole"} == {
        f"finetune-operator-jobs-{role}" for role in ("view", "edit", "admin")}
    assert sorted(one["metadata"]["namespace"] for one in objects if one["kind"] == "RoleBinding") == [
        "finetune-system", "team-a", "team-b"]
    arguments = only(objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]["args"]
    assert [one for one in arguments if one.startswith("--namespace")] == ["--namespace=team-a", "--namespace=team-b"]
    binding = only(objects, "ValidatingAdmissionPolicyBinding")
    assert binding["spec"]["matchResources"]["namespaceSelector"]["matchExpressions"][0]["values"] == [
        "team-a", "team-b"]


@pytest.mark.parametrize(("image", "name"), [
    ({}, "ghcr.io/finetune-dev/finetune-operator:0.1.0"),
    ({"repository": "mirror/operator", "tag": "v2"}, "mirror/operator:v2"),
    ({"digest": "sha256:" + "a" * 64}, "ghcr.io/finetune-dev/finetune-operator@sha256:" + "a" * 64),
])
def test_images_are_named_by_tag_or_digest(image, name):
    objects = render({"image": image, "trainerImage": image})
    assert only(objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]["image"] == name
    assert settings_of(objects)["trainerImage"].split("/")[-1] == name.split("/")[-1].replace("operator", (
        "operator" if image.get("repository") else "trainer"))


def test_other_settings_start_the_operator_again_and_the_same_do_not():
    def mark(values):
        pod = only(render(values), "Deployment")["spec"]["template"]
        return pod["metadata"]["annotations"]["finetune.dev/settings"]

    assert mark({}) == mark({}) != mark({"settings": {"workers": 4}})


def test_one_replica_has_no_disruption_budget_that_would_hold_up_a_drain(objects):
    assert only(objects, "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1
    assert [one for one in render({"replicaCount": 1}) if one["kind"] == "PodDisruptionBudget"] == []


def test_what_is_switched_off_is_not_there():
    objects = render({"crds": {"install": False}, "rbac": {"create": False, "userRoles": False},
                      "serviceAccount": {"create": False, "name": "mine"}, "networkPolicy": {"enabled": False},
                      "admissionPolicy": {"enabled": False}, "podDisruptionBudget": {"enabled": False}})
    assert sorted(one["kind"] for one in objects) == ["ConfigMap", "Deployment"]
    assert only(objects, "Deployment")["spec"]["template"]["spec"]["serviceAccountName"] == "mine"


def test_a_changed_price_and_a_new_accelerator_leave_the_rest_of_the_catalogue_alone():
    objects = render({"settings": {"accelerators": {
        "nvidia-l4": {"hourlyPrice": "0.70"}, "big": {"resource": "amd.com/gpu"}, "nvidia-t4": None}}})
    read = Settings.model_validate(settings_of(objects), strict=False).accelerators
    assert (str(read["nvidia-l4"].hourly_price), str(read["nvidia-l4"].memory)) == ("0.70", "24Gi")
    assert read["big"].resource == "amd.com/gpu"
    assert "nvidia-t4" not in read
    assert read["cpu"].resource is None


@pytest.mark.parametrize("preflight", [None, {"queueName": "checks"}])
def test_a_check_is_in_a_queue_only_where_one_is_named(preflight):
    read = Settings.model_validate(settings_of(render({"settings": {"preflight": preflight}})), strict=False).preflight
    assert read.queue_name == (preflight or {}).get("queueName")
    assert read.model_copy(update={"queue_name": None}) == Settings().preflight


def test_without_a_trainer_network_there_is_none():
    assert "trainerNetwork" not in settings_of(render({"settings": {"trainerNetwork": None}}))


def test_monitoring_is_there_where_it_is_wanted(objects):
    assert not [one for one in objects if "monitoring.coreos.com" in one["apiVersion"]]
    monitored = render(MONITORED)
    assert sorted(one["kind"] for one in monitored if "monitoring.coreos.com" in one["apiVersion"]) == [
        "PodMonitor", "PodMonitor", "PrometheusRule"]
    assert only(monitored, "PrometheusRule")["spec"] == yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())
    (endpoint,) = only([one for one in monitored if not one["metadata"]["name"].endswith("-trainers")],
                       "PodMonitor")["spec"]["podMetricsEndpoints"]
    assert endpoint["honorLabels"], "the operator tells of jobs in other namespaces than its own"


@pytest.mark.parametrize(("values", "words"), [
    ({"replicas": 2}, "replicas"),
    ({"replicaCount": 3}, "replicaCount"),
    ({"image": {"digest": "latest"}}, "digest"),
    ({"namespaces": ["Team A"]}, "namespaces"),
    ({"crds": {"keep": "yes"}}, "keep"),
    ({"settings": {"trainerImage": "x"}}, "trainerImage"),
    ({"settings": {"workers": 0}}, "workers"),
    ({"settings": {"startTimeout": "soon"}}, "startTimeout"),
    ({"settings": {"allowed": {"nodeLabels": "team"}}}, "nodeLabels"),
    ({"settings": {"accelerators": {"x": {"price": "1"}}}}, "price"),
    ({"settings": {"trainerNetwork": {"destinations": [{"port": 1}]}}}, "port"),
    ({"log": {"level": "loud"}}, "level"),
    ({"monitoring": {"podMonitor": {"enabled": True}, "serviceMonitor": {"enabled": True}}}, "Disable one of them"),
])
def test_values_that_are_wrong_are_refused_by_name(values, words):
    with pytest.raises(HelmFailed, match=words):
        render(values)
