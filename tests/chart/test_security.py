"""What somebody who may only create jobs and experiments tries on a real apiserver with the chart, and its outcome."""

from __future__ import annotations

import re

import pytest
from finetune_api.status import UNSEEN_STATUS

from charts.generate import ROOT
from tests.api.experiments import experiment_document
from tests.api.jobs import document
from tests.chart.release import Release
from tests.cluster.waiting import wait_for
from tests.operator.api import Api, Refused
from tests.operator.work import DONE, Applied, Work

ALLOWED = {"serviceAccountNames": ["trainer"], "priorityClassNames": ["low"], "nodeLabels": ["pool"],
           "tolerationKeys": ["spare"], "rewardPlugins": ["by-length"],
           "datasetHosts": ["data.corp.example"]}
VALUES = {"settings": {"progressInterval": "1s", "allowed": ALLOWED}}
USER = "mallory"
ROLE = """
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: only-jobs}
rules:
- apiGroups: [finetune.dev]
  resources: [finetunejobs, finetuneexperiments]
  verbs: [create, get, list, watch, update, patch]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: only-jobs}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: only-jobs}
subjects: [{kind: User, name: mallory}]
"""


class Experiment(Applied):
    """An experiment of a user."""

    kind = "FineTuneExperiment"


@pytest.fixture(scope="module")
def release(control_plane):
    installed = Release(control_plane, control_plane.namespace("finetune"))
    installed.install(VALUES)
    yield installed
    installed.remove()


@pytest.fixture(scope="module")
def operator(release):
    running = release.operator()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def user(control_plane, release):
    """Requests of somebody whom RBAC lets do nothing but write jobs and experiments in one namespace."""
    namespace = control_plane.namespace("tenant")
    control_plane.kubectl("apply", "-n", namespace, "-f", "-", input=ROLE)
    requests = Api(control_plane, USER)

    wait_for(lambda: refusal(requests, namespace, serviceAccountName="admin"), "the admission policy to be in force")
    yield requests, namespace
    requests.close()


def refusal(requests, namespace, **compute):
    """The admission policy's words about a job with this compute section; empty where it is taken."""
    try:
        create(requests, namespace, "probe", "?dryRun=All", compute=compute)
    except Refused as refused:
        return refused.message if "do not allow" in refused.message else ""
    return ""


def create(requests, namespace, name, query="", metadata=None, **sections):
    body = document(**{"runPolicy": {"preflight": "Skip"}, **sections})
    body["metadata"] = {"name": name, **(metadata or {})}
    return requests.create("FineTuneJob", namespace, body, query)


def plugin(name):
    return {"method": {"type": "ReFT", "reft": {"reward": {"type": "plugin", "plugin": name}}}}


@pytest.mark.parametrize(("sections", "words"), [
    ({"compute": {"serviceAccountName": "admin"}},
     "spec.compute.serviceAccountName: the operator's settings do not allow admin; leave it out"),
    ({"compute": {"priorityClassName": "system-node-critical"}},
     "spec.compute.priorityClassName: the operator's settings do not allow system-node-critical"),
    ({"compute": {"tolerations": [{"key": "node-role.kubernetes.io/control-plane", "operator": "Exists"}]}},
     "spec.compute.tolerations: the operator's settings do not allow node-role.kubernetes.io/control-plane"),
    ({"compute": {"tolerations": [{"operator": "Exists"}]}},
     r"spec.compute.tolerations: the operator's settings do not allow \(every taint\)"),
    ({"compute": {"nodeSelector": {"node-role.kubernetes.io/control-plane": ""}}},
     "spec.compute.nodeSelector: the operator's settings do not allow node-role.kubernetes.io/control-plane"),
    (plugin("timeit"), "spec.method.reft.reward.plugin: the operator's settings do not allow timeit; use another"),
    (plugin("timeit:timeit"), "write the entry point's name, not package.module:function"),
    ({"model": {"source": "file:///etc/shadow"}}, "file:// is for `finetune run` alone"),
    ({"dataset": {"source": "file:///var/run/secrets/token.jsonl"}}, "file:// is for `finetune run` alone"),
    ({"output": {"uri": "file:///etc/cron.d"}}, "file:// is for `finetune run` alone"),
    ({"model": {"source": "pvc://models/../../etc"}}, "a location holds no '..'"),
    ({"dataset": {"source": "pvc://other-team/claim/../rows.jsonl"}}, "a location holds no '..'"),
    ({"output": {"uri": "pvc://results/.."}}, "a location holds no '..'"),
    ({"model": {"source": "hostpath:///etc"}}, "spec.model.source"),
])
def test_what_would_gain_something_is_refused_with_a_sentence(user, sections, words):
    requests, namespace = user
    with pytest.raises(Refused, match=words):
        create(requests, namespace, "attack", **sections)


@pytest.mark.parametrize(("name", "sections", "words"), [
    ("template", {"template": {"spec": {"compute": {"serviceAccountName": "admin"}}}},
     "spec.compute.serviceAccountName: the operator's settings do not allow admin"),
    ("patch", {"variants": [{"name": "one"}, {"name": "two", "patch": {"compute": {"priorityClassName": "system"}}}]},
     "variant two: spec.compute.priorityClassName: the operator's settings do not allow system"),
    ("plugin", {"variants": [{"name": "one", "patch": plugin("timeit")}]},
     "spec.method.reft.reward.plugin: the operator's settings do not allow timeit"),
    ("sweep", {"sweep": {"grid": {"compute.serviceAccountName": ["trainer", "admin"]}}},
     "spec.compute.serviceAccountName: the operator's settings do not allow admin"),
    ("files", {"variants": [{"name": "one", "patch": {"model": {"source": "file:///etc/shadow"}}}]},
     "file:// is for `finetune run` alone"),
])
def test_the_operator_creates_no_job_for_an_experiment_that_would_gain_something(api, operator, user, name, sections,
                                                                                 words):
    requests, namespace = user
    requests.create("FineTuneExperiment", namespace, experiment_document(name, **sections))
    status = Experiment(api, namespace, name).until("Pending", "InvalidVariant")
    assert words in status["conditions"][0]["message"]
    assert not [job for job in api.list("FineTuneJob", namespace) if job["metadata"]["name"].startswith(f"{name}-")]


@pytest.mark.parametrize(("path", "value", "field"), [
    ("image", "evil/trainer:1", "spec.image"),
    ("podTemplate", {"spec": {"hostNetwork": True}}, "spec.podTemplate"),
])
def test_what_no_field_is_for_is_refused_by_kubectl_and_dropped_for_others(control_plane, user, path, value, field):
    requests, namespace = user
    body = {**document(), "metadata": {"name": "override"}}
    body["spec"][path] = value
    with pytest.raises(Refused, match=f'unknown field "{field}"'):
        requests.create("FineTuneJob", namespace, body, "?fieldValidation=Strict")
    stored = requests.create("FineTuneJob", namespace, body, "?dryRun=All")
    assert path not in stored["spec"]


@pytest.mark.parametrize("reference", [
    {"name": "s3", "key": "database-password"}, {"name": "s3", "namespace": "kube-system"}])
def test_of_a_secret_only_fixed_keys_of_the_own_namespace_can_be_had(user, reference):
    requests, namespace = user
    body = {**document(output={"s3": {"credentialsSecretRef": reference}}), "metadata": {"name": "keys"}}
    with pytest.raises(Refused, match="unknown field"):
        requests.create("FineTuneJob", namespace, body, "?fieldValidation=Strict")


def test_a_secret_that_a_job_names_reaches_it_by_its_purposes_keys_alone(api, operator, user):
    requests, namespace = user
    create(requests, namespace, "secrets", output={"s3": {"credentialsSecretRef": {"name": "anything"}}})
    pod = Work(api, namespace, "secrets").running_pod()
    taken = {one["valueFrom"]["secretKeyRef"]["key"] for one in pod["spec"]["containers"][0]["env"]
             if "secretKeyRef" in one.get("valueFrom", {})}
    assert taken == {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"}
    assert not any("secret" in volume for volume in pod["spec"]["volumes"])
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert not any("serviceAccountToken" in str(volume) or "hostPath" in volume for volume in pod["spec"]["volumes"])


def test_another_namespaces_claim_cannot_be_named(api, operator, user):
    requests, namespace = user
    create(requests, namespace, "claims", model={"source": "pvc://other-team/models/mistral"})

    def volume():
        job = next((one for one in api.list("Job", namespace) if one["metadata"]["name"] == "claims-1"), None)
        return job and [one for one in job["spec"]["template"]["spec"]["volumes"] if "persistentVolumeClaim" in one]

    assert wait_for(volume, "the attempt") == [{"name": "claim-0", "persistentVolumeClaim": {
        "claimName": "other-team", "readOnly": True}}], "a claim of that name in the job's own namespace"


def test_annotations_labels_and_owners_that_smuggle_change_nothing(control_plane, api, operator, user):
    requests, namespace = user
    owner = control_plane.get("namespace", "kube-system")["metadata"]["uid"]  # Of one that is not, all is collected.
    smuggled = {
        "annotations": {"finetune.dev/hash": "0", "kueue.x-k8s.io/queue-name": "vip", "finetune.dev/image": "evil"},
        "labels": {"kueue.x-k8s.io/queue-name": "vip", "finetune.dev/job": "other", "finetune.dev/job-uid": "x",
                   "app.kubernetes.io/managed-by": "finetune-operator", "kueue.x-k8s.io/priority-class": "vip"},
        "ownerReferences": [{"apiVersion": "v1", "kind": "Namespace", "name": "kube-system", "uid": owner}],
    }
    create(requests, namespace, "smuggle", metadata=smuggled)
    work = Work(api, namespace, "smuggle")
    pod = work.running_pod()
    job = api.get("Job", namespace, "smuggle-1")
    for made in (job, pod):
        text = str({**made["metadata"], "managedFields": None})
        assert "vip" not in text and "evil" not in text and "other" not in text and "kube-system" not in text
    assert job["spec"]["suspend"] is False
    assert pod["spec"]["containers"][0]["image"] == "ghcr.io/finetune-dev/finetune-trainer:0.1.0"
    work.end(0, DONE)
    work.until("Succeeded")


def test_a_status_that_is_made_up_is_not_taken(user):
    requests, namespace = user
    body = {**document(), "metadata": {"name": "status"}, "status": {"startTime": "2026-01-01T00:00:00Z",
                                                                     "image": "evil/trainer:1"}}
    stored = requests.create("FineTuneJob", namespace, body, "?dryRun=All")
    assert stored["status"] == UNSEEN_STATUS, "what the apiserver says of a job that nobody has looked at"
    create(requests, namespace, "status")
    with pytest.raises(Refused, match="cannot patch resource \"finetunejobs/status\""):
        requests.patch("FineTuneJob", namespace, "status", {"status": {"image": "evil/trainer:1"}}, "status")


def test_a_started_job_cannot_be_turned_into_another(operator, api, user):
    requests, namespace = user
    create(requests, namespace, "fixed")
    Work(api, namespace, "fixed").until("Running")
    with pytest.raises(Refused, match=r"the job has started: spec.compute can't change any more"):
        requests.patch("FineTuneJob", namespace, "fixed", {"spec": {"compute": {"serviceAccountName": "trainer"}}})


@pytest.mark.parametrize("sections", [
    *({"compute": compute} for compute in (
        {"serviceAccountName": "trainer"}, {"priorityClassName": "low"}, {"nodeSelector": {"pool": "a"}},
        {"tolerations": [{"key": "spare", "operator": "Exists"}]})),
    plugin("by-length"),
])
def test_what_the_settings_allow_is_taken(user, sections):
    requests, namespace = user
    create(requests, namespace, "allowed", "?dryRun=All", **sections)


def test_a_list_that_is_shortened_later_holds_up_no_other_change(control_plane, api, release, user):
    requests, namespace = user
    suspended = {"preflight": "Skip", "suspend": True}
    create(requests, namespace, "earlier", compute={"serviceAccountName": "trainer"}, runPolicy=suspended)
    release.upgrade({"settings": {"allowed": {"serviceAccountNames": []}}})
    try:
        wait_for(lambda: refusal(requests, namespace, serviceAccountName="trainer"), "the shorter list to be in force")
        requests.patch("FineTuneJob", namespace, "earlier", {"spec": {"budget": {"maxCost": "1"}}})
        with pytest.raises(Refused, match="do not allow trainer"):
            requests.patch("FineTuneJob", namespace, "earlier", {"spec": {"compute": {"gpusPerNode": 2}}})
    finally:
        release.upgrade(VALUES)


def test_the_user_reaches_nothing_else(user):
    requests, namespace = user
    for kind in ("Pod", "ConfigMap", "Job"):
        with pytest.raises(Refused, match="cannot list resource"):
            requests.list(kind, namespace)


def test_a_policy_aimed_at_by_name_is_left_alone(control_plane, api, operator, user):
    """The operator applies by force: a name that somebody can choose would let them replace another's policy."""
    requests, namespace = user
    policy = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "guard"},
              "spec": {"podSelector": {}, "policyTypes": ["Egress"]}}
    api("POST", f"/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies", policy)
    create(requests, namespace, "guard")
    Work(api, namespace, "guard").running_pod()
    kept = control_plane.get("networkpolicy", "guard", "-n", namespace)
    assert kept["spec"] == policy["spec"]


def test_every_guard_of_the_threat_model_names_a_test_that_is_there():
    page = (ROOT / "docs" / "explanation" / "security.md").read_text()
    named = re.findall(r"\| `(tests/\S+)::(\w+)` \|$", page, re.MULTILINE)
    assert len(named) > 10
    for path, name in named:
        assert f"def {name}(" in (ROOT / path).read_text(), f"{path}::{name}"
