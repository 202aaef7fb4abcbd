"""The chart on a real apiserver: what its account may do, and a life of install, upgrade and uninstall."""

from __future__ import annotations

import json

import pytest
import yaml
from finetune_api.messages import Outcome, Result

from charts.generate import MANIFESTS
from tests.chart.release import CRDS, Release, render
from tests.chart.test_values import MONITORED
from tests.cluster.waiting import wait_for
from tests.operator.work import DONE, Work

FAST = {"settings": {"progressInterval": "1s", "retryDelay": "1s"}}
GROUP = "monitoring.coreos.com"


def monitoring_definitions():
    """The Prometheus operator's kinds, by name alone: its own schemas are not tested here."""
    for kind in ("PodMonitor", "ServiceMonitor", "PrometheusRule"):
        plural = f"{kind.lower()}s"
        yield {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
               "metadata": {"name": f"{plural}.{GROUP}"},
               "spec": {"group": GROUP, "scope": "Namespaced",
                        "names": {"kind": kind, "plural": plural, "singular": kind.lower()},
                        "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": {
                            "type": "object", "x-kubernetes-preserve-unknown-fields": True}}}]}}


@pytest.fixture(scope="module")
def monitored(control_plane):
    """A cluster that knows the Prometheus operator's kinds."""
    items = list(monitoring_definitions())
    control_plane.kubectl("apply", "-f", "-", input=json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
    names = [f"crd/{one['metadata']['name']}" for one in items]
    control_plane.kubectl("wait", "--for=condition=Established", *names, "--timeout=30s")
    yield control_plane
    control_plane.kubectl("delete", *names)


@pytest.mark.parametrize("values", [
    {}, MONITORED, {"monitoring": {"serviceMonitor": {"enabled": True}}},
    {"replicaCount": 1, "namespaces": ["default"]},
    {"settings": {"allowed": {"serviceAccountNames": ["trainer"], "nodeLabels": ["a/b", "c"]}}},
])
def test_the_apiserver_takes_every_object(monitored, values):
    namespace = monitored.namespace("dry")
    monitored.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/warn=restricted")
    objects = render(values, namespace)
    answer = monitored.kubectl("apply", "--server-side", "--dry-run=server", "-o", "name", "-f", "-",
                               input=yaml.safe_dump_all(objects))
    assert len(answer.stdout.split()) == len(objects)
    assert "violate" not in answer.stderr


def test_the_plain_manifests_are_taken_too(control_plane):
    try:
        control_plane.kubectl("apply", "--server-side", "-f", MANIFESTS)
        control_plane.kubectl("wait", "--for=condition=Established", *CRDS, "--timeout=30s")
        again = control_plane.kubectl("diff", "--server-side", "-f", MANIFESTS, check=False)
        assert (again.returncode, again.stdout) == (0, "")
        pods = wait_for(lambda: control_plane.get("pods", "-n", "finetune-system")["items"], "the operator's pods")
        assert pods[0]["spec"]["serviceAccountName"] == "finetune-operator"
    finally:
        control_plane.kubectl("delete", "-f", MANIFESTS, "--ignore-not-found", "--timeout=60s")


@pytest.mark.parametrize("namespaced", [False, True])
def test_a_whole_job_needs_nothing_that_the_charts_account_may_not_do(control_plane, api, namespaced):
    teams = [control_plane.namespace("team"), control_plane.namespace("team")]
    release = Release(control_plane, control_plane.namespace("finetune"))
    release.install({**FAST, **({"namespaces": teams[:1]} if namespaced else {})})
    operator = release.operator()
    try:
        work = Work(api, teams[0])
        work.apply(compute={"nodes": 2}, runPolicy={"preflight": "Skip", "ttlSecondsAfterFinished": 1})
        work.until("Running")
        (policy,) = control_plane.get("networkpolicies", "-n", teams[0])["items"]
        assert policy["metadata"]["ownerReferences"][0]["name"] == "tune"
        control_plane.kubectl("delete", "networkpolicy", policy["metadata"]["name"], "-n", teams[0])
        wait_for(lambda: control_plane.get("networkpolicies", "-n", teams[0])["items"], "the policy to be put back")
        # Stopped once: the next attempt is made, and what the first one left is deleted in the end.
        for pod in work.running_pods(2):
            work.end_pod(pod, 75, Result(outcome=Outcome.STOPPED, message="stopped"))
        for pod in work.running_pods(2, number=2):
            work.end_pod(pod, 0, DONE)
        status = work.until("Succeeded")
        assert [one["reason"] for one in status["attempts"]] == ["Stopped", "Succeeded"]
        wait_for(lambda: not work.jobs() and not control_plane.get("networkpolicies", "-n", teams[0])["items"]
                 and not [one for one in api.list("ConfigMap", teams[0]) if one["metadata"]["name"].startswith("tune")]
                 and not api.list("Service", teams[0]), "the children to go")
        assert {one["reason"] for one in work.events()} >= {"Started", "Running", "Succeeded"}
        other = Work(api, teams[1])
        other.apply()
        if namespaced:
            assert "observedGeneration" not in other.status()
        else:
            other.until("Running")
        refused = {dict(labels).get("status") for name, labels in operator.metrics()
                   if name == "finetune_operator_api_requests_total"} & {"401", "403"}
        assert refused == set()
        lines = [json.loads(line) for line in operator.process.log.read_text().splitlines()]
        assert [line for line in lines if line["level"] != "info"] == []
        about = [line for line in lines if f"{teams[0]}/tune" in line["message"]]
        assert {line["job"] for line in about} == {f"{teams[0]}/tune"}
        assert {line.get("attempt") for line in about} >= {1, 2}
    finally:
        operator.stop()
        release.remove()


def test_an_upgrade_restarts_no_job_and_an_uninstall_keeps_them(control_plane, api):
    namespace = control_plane.namespace("team")
    release = Release(control_plane, control_plane.namespace("finetune"))
    release.install(FAST)
    first = release.operator("before")
    try:
        work = Work(api, namespace)
        work.apply()
        work.until("Running")
        pod = work.running_pod()["metadata"]["uid"]
        before = control_plane.get("deployment", "finetune-operator", "-n", release.namespace)["metadata"]["generation"]
        release.upgrade({"settings": {**FAST["settings"], "workers": 4, "currency": "EUR"},
                         "trainerImage": {"tag": "next"}})
        deployment = control_plane.get("deployment", "finetune-operator", "-n", release.namespace)
        assert deployment["metadata"]["generation"] > before, "the operator reads the new settings"
        first.stop()
        second = release.operator("after")
        try:
            work.change(budget={"maxCost": "50"})  # So that the new one certainly has looked at it.
            limits = wait_for(lambda: [one for one in api.list("ConfigMap", namespace)
                                       if '"maxCost":"50"' in str(one.get("data"))], "the new operator to act")
            assert limits
            assert work.running_pod()["metadata"]["uid"] == pod
            assert len(work.status()["attempts"]) == 1
        finally:
            second.stop()
        release.uninstall()
        assert work.running_pod()["metadata"]["uid"] == pod
        assert work.status()["phase"] == "Running"
        assert control_plane.kubectl("get", *CRDS, "-o", "name").stdout.count("\n") == len(CRDS)
        left = control_plane.kubectl("get", "deployment,serviceaccount,role,configmap", "-n", release.namespace, "-o",
                                     "name").stdout
        assert "finetune-operator" not in left
        # Installed again, it takes the kept definition over, and the job goes on.
        release.install(FAST)
        third = release.operator("again")
        try:
            work.end(0, DONE)
            work.until("Succeeded")
        finally:
            third.stop()
    finally:
        first.stop()
        release.remove()


# From here on one release serves all tests.

@pytest.mark.parametrize(("request_", "granted"), [
    (("list", "finetunejobs"), True), (("update", "finetunejobs/status"), True), (("create", "jobs"), True),
    (("update", "finetunejobs/finalizers"), True), (("patch", "networkpolicies"), True), (("create", "events"), True),
    (("list", "events"), True), (("watch", "events"), False),
    (("get", "persistentvolumeclaims"), True), (("list", "persistentvolumeclaims"), False),
    (("get", "secrets"), False), (("list", "secrets"), False), (("create", "secrets"), False),
    (("create", "pods"), False), (("create", "pods/exec"), False), (("update", "finetunejobs"), False),
    (("create", "finetunejobs"), True), (("delete", "finetunejobs"), True), (("watch", "finetuneexperiments"), True),
    (("update", "finetuneexperiments/status"), True), (("update", "finetuneexperiments/finalizers"), True),
    (("patch", "finetuneexperiments"), False), (("delete", "finetuneexperiments"), False),
    (("create", "rolebindings"), False), (("get", "serviceaccounts"), False),
    (("update", "jobs"), False), (("get", "nodes"), False), (("update", "leases"), False),
])
def test_the_account_may_do_what_it_needs_and_no_more(control_plane, release, request_, granted):
    account = f"system:serviceaccount:{release.namespace}:finetune-operator"
    verb, (resource, _, part) = request_[0], request_[1].partition("/")
    answer = control_plane.kubectl("auth", "can-i", verb, resource, f"--subresource={part}", "-n", "default", "--as",
                                   account, check=False)
    assert answer.stdout.strip() == ("yes" if granted else "no")


@pytest.mark.parametrize("kind", ["finetunejobs", "finetuneexperiments"])
@pytest.mark.parametrize(("role", "verbs"), [
    ("view", {"get", "list", "watch"}),
    ("edit", {"get", "list", "watch", "create", "update", "patch", "delete"}),
    ("admin", {"get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"}),
])
def test_users_have_it_by_the_clusters_own_roles(control_plane, release, role, verbs, kind):
    def granted():
        rules = control_plane.get("clusterrole", role)["rules"]
        return {verb for rule in rules if kind in rule.get("resources", ()) for verb in rule["verbs"]}

    wait_for(lambda: granted() >= verbs, f"{role} to take in the chart's role")
    assert granted() == verbs
    assert not any(f"{kind}/status" in rule.get("resources", ())
                   for rule in control_plane.get("clusterrole", role)["rules"]), "only the operator tells what happened"
