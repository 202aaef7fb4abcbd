"""The NetworkPolicy of a job's pods: a table of settings, and what the plan does with it."""

from __future__ import annotations

import pytest
from finetune_api.status import Phase
from finetune_operator.errors import BadSettings
from finetune_operator.manifests.network_policy import network_policy
from finetune_operator.observed.job import view_job
from finetune_operator.settings import Settings, TrainerNetwork, load_settings
from pydantic import ValidationError

from tests.operator.objects import NOW, UID, actions_of, decide, raw_attempt, raw_job, raw_pod, reported, started

METADATA = "169.254.169.254/32"
OPERATOR = {"namespaceLabels": {"kubernetes.io/metadata.name": "finetune-system"},
            "podLabels": {"app.kubernetes.io/name": "finetune-operator"}}


def network(**fields):
    return TrainerNetwork.model_validate(fields, strict=False)


def settings(**fields):
    return Settings.model_validate({"trainerImage": "registry/trainer:1", "trainerNetwork": fields}, strict=False)


def policy(nodes=1, **fields):
    return network_policy(view_job(raw_job()), nodes, network(**fields), 8080)["spec"]


def blocks(spec):
    """The address ranges that are open, with what is left out of each."""
    return [(peer["ipBlock"]["cidr"], peer["ipBlock"].get("except", [])) for rule in spec["egress"]
            for peer in rule["to"] if "ipBlock" in peer]


def test_the_jobs_own_pods_are_selected_by_its_uid_and_both_directions_are_closed():
    made = policy()
    assert made["podSelector"] == {"matchLabels": {"finetune.dev/job-uid": UID}}
    assert made["policyTypes"] == ["Ingress", "Egress"]


def test_nobody_gets_in_but_those_who_are_named_and_only_at_the_trainers_port():
    assert policy()["ingress"] == []
    assert policy(scrapers=[OPERATOR])["ingress"] == [{
        "from": [{"namespaceSelector": {"matchLabels": OPERATOR["namespaceLabels"]},
                  "podSelector": {"matchLabels": OPERATOR["podLabels"]}}],
        "ports": [{"protocol": "TCP", "port": 8080}]}]


def test_names_can_be_looked_up_everywhere():
    rule = policy(destinations=[])["egress"]
    assert [one["ports"] for one in rule] == [[{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]]
    assert {"namespaceSelector": {}} in rule[0]["to"]


NODES = ["169.254.0.0/16", "168.63.129.16/32", "100.100.100.200/32"]
"""What every wider range leaves out: link-local addresses, Azure's host, Alibaba's metadata."""

PRIVATE = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10"]


@pytest.mark.parametrize(("fields", "opened"), [
    ({}, ("0.0.0.0/0", NODES)),
    ({"destinations": [{"cidr": "168.0.0.0/6"}]}, ("168.0.0.0/6", NODES[:2])),
    ({"destinations": [{"cidr": "169.254.170.23/32", "ports": [80]}]}, ("169.254.170.23/32", [])),
    ({}, ("::/0", ["fd00:ec2::254/128", "fd20:ce::254/128"])),
    ({"destinations": [{"cidr": "169.254.0.0/16"}]}, ("169.254.0.0/16", [METADATA])),
    ({"destinations": [{"cidr": "10.0.0.0/8", "ports": [9000]}]}, ("10.0.0.0/8", [])),
    ({"allowMetadata": True}, ("0.0.0.0/0", [])),
    ({"allowMetadata": True, "destinations": [{"cidr": METADATA}]}, (METADATA, [])),
])
def test_the_metadata_address_is_left_out_of_every_range_unless_it_is_allowed(fields, opened):
    assert opened in blocks(policy(**fields))
    if not fields.get("allowMetadata"):
        assert all(left_out == NODES for cidr, left_out in blocks(policy(**fields)) if cidr == "0.0.0.0/0")


@pytest.mark.parametrize(("destination", "left_out"), [
    ({"cidr": "0.0.0.0/0"}, [*NODES[:2], *PRIVATE]),
    ({"cidr": "::/0"}, ["fc00::/7"]),
    ({"cidr": "10.0.0.0/8"}, []), ({"cidr": "10.1.2.3/32"}, []), ({"cidr": "172.0.0.0/8"}, ["172.16.0.0/12"]),
])
def test_private_ranges_are_left_out_where_that_is_set_unless_a_destination_names_one(destination, left_out):
    destinations = [{"podLabels": {"app": "minio"}}, destination]
    assert blocks(policy(allowPrivate=False, destinations=destinations))[-1] == (destination["cidr"], left_out)
    assert policy(allowPrivate=False, destinations=destinations)["egress"][1] == {
        "to": [{"podSelector": {"matchLabels": {"app": "minio"}}}]}
    names = policy(allowPrivate=False, destinations=[])
    assert blocks(names) == blocks(policy(destinations=[])), "a name server may have a private address"


def test_names_are_looked_up_at_the_node_too_where_it_answers_them():
    assert [cidr for cidr, _ in blocks(policy(destinations=[]))][2:] == ["169.254.20.10/32", "169.254.10.10/31"]
    assert [cidr for cidr, _ in blocks(policy(destinations=[], nodeLocalDns=[]))] == ["0.0.0.0/0", "::/0"]


def test_destinations_have_their_ports():
    made = policy(destinations=[{"cidr": "10.0.0.0/8", "ports": [9000]}, {"podLabels": {"app": "minio"}}])["egress"]
    assert made[1] == {"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "ports": [{"protocol": "TCP", "port": 9000}]}
    assert made[2] == {"to": [{"podSelector": {"matchLabels": {"app": "minio"}}}]}


def test_only_pods_that_train_together_reach_each_other():
    ours = {"podSelector": {"matchLabels": {"finetune.dev/job-uid": UID}}}
    assert {"from": [ours]} not in policy(1)["ingress"]
    assert {"from": [ours]} in policy(2)["ingress"]
    assert {"to": [ours]} in policy(2)["egress"]


@pytest.mark.parametrize(("fields", "words"), [
    ({"destinations": [{"cidr": METADATA}]}, "allowMetadata: true"),
    ({"destinations": [{"cidr": "168.63.129.16/32"}]}, "allowMetadata: true"),
    ({"nodeLocalDns": ["169.254.20.10/8"]}, "such as 10.0.0.0/8"),
    ({"destinations": [{"cidr": "10.0.0.1/8"}]}, "such as 10.0.0.0/8"),
    ({"destinations": [{"ports": [80]}]}, "either cidr, or namespaceLabels and podLabels"),
    ({"scrapers": [{"cidr": "10.0.0.0/8", "podLabels": {}}]}, "either cidr, or namespaceLabels and podLabels"),
])
def test_what_makes_no_sense_is_refused_in_words(fields, words, tmp_path):
    with pytest.raises(ValidationError, match=words):
        network(**fields)
    file = tmp_path / "settings.yaml"
    file.write_text(str({"trainerNetwork": fields}))
    with pytest.raises(BadSettings, match="trainerNetwork"):
        load_settings(file)


def test_the_policy_stands_before_the_first_pod():
    assert actions_of(decide(raw_job(started()), settings=settings())) == [
        "apply NetworkPolicy tune-11111111", "create ConfigMap tune-1-11111111",
        "create ConfigMap tune-1-11111111-limits", "create Job tune-1"]
    assert actions_of(decide(raw_job(), settings=settings())) == [], "the start is recorded first"


def test_without_the_setting_there_is_none():
    assert "NetworkPolicy" not in str(actions_of(decide(raw_job(started()))))


def stored(made, version="1"):
    made["metadata"] |= {"uid": "policy", "resourceVersion": version}
    return made


def test_it_is_applied_again_only_where_it_is_gone_or_the_settings_changed():
    raws = [raw_job(started()), raw_attempt(), raw_pod(running=True)]
    before = decide(*raws, settings=settings())
    applied = stored(before.actions[0].manifest)
    raws[0] = raw_job(before.status)
    assert "NetworkPolicy" not in str(actions_of(decide(*raws, applied, settings=settings())))
    changed = decide(*raws, applied, settings=settings(destinations=[]))
    assert actions_of(changed)[0] == "apply NetworkPolicy tune-11111111"


def test_it_goes_with_the_other_children():
    running = [raw_attempt(), raw_pod(running=True)]
    applied = stored(decide(raw_job(started()), *running, settings=settings()).actions[0].manifest)
    done = raw_job(started(completion_time=NOW, phase=Phase.SUCCEEDED), runPolicy={"ttlSecondsAfterFinished": 1})
    decided = decide(done, raw_attempt(ended="Complete"), applied, at=10, settings=settings())
    gone = next(one for one in decided.actions if one.kind == "NetworkPolicy")
    assert (gone.api_version, gone.name) == ("networking.k8s.io/v1", "tune-11111111")


@pytest.mark.parametrize(("sections", "words"), [
    ({"output": {"s3": {"endpointUrl": "http://minio:9000"}}}, "spec.output.s3.endpointUrl"),
    ({"dataset": {"source": "https://host:8443/rows.jsonl"}}, "spec.dataset.source"),
])
def test_a_server_at_a_closed_port_is_refused_before_anything_is_bought(sections, words):
    told = reported(decide(raw_job(**sections), settings=settings()))
    assert told[:2] == ("Pending", "InvalidSpec")
    assert words in told[2] and "let no trainer reach it" in told[2]
    opened = settings(destinations=[{"cidr": "10.0.0.0/8", "ports": [8443, 9000]}])
    assert reported(decide(raw_job(**sections), settings=opened))[1] == "Started"


@pytest.mark.parametrize(("nodes", "fields"), [
    (1, {}), (2, {"scrapers": [OPERATOR]}), (1, {"allowMetadata": True, "destinations": [{"cidr": METADATA}]}),
    (1, {"allowPrivate": False}),
    (1, {"destinations": [{"cidr": "169.254.0.0/16"}, {"cidr": "fd00::/8", "ports": [9000]}, {"podLabels": {}},
                          {"namespaceLabels": {}, "ports": [1, 65535]}]}),
])
def test_the_apiserver_takes_it_and_keeps_it_as_it_is(api, namespace, nodes, fields):
    made = network_policy(view_job(raw_job()), nodes, network(**fields), 8080)
    made["metadata"] = {"name": "isolated"}
    path = f"/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies/isolated?fieldManager=test&dryRun=All"
    stored = api("PATCH", path, made, "application/apply-patch+yaml")
    assert stored["spec"] == {key: value for key, value in made["spec"].items() if value != []}
