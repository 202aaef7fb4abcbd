"""The NetworkPolicies of our pods: who may connect to them, and where they may connect to. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import ip_network

from finetune_operator.manifests.child import Manifest, child_metadata, hashed, identity, owned_metadata
from finetune_operator.names import API_VERSIONS, EXPERIMENT_UID_LABEL, UID_LABEL, experiment_labels, policy_name
from finetune_operator.observed.experiment import ExperimentView
from finetune_operator.observed.job import JobView
from finetune_operator.observed.observation import Observation
from finetune_operator.settings import Destination, Peer, Settings, TrainerNetwork

EVERYWHERE = (Peer(cidr="0.0.0.0/0"), Peer(cidr="::/0"))
_DNS_PORT = 53


def missing(observation: Observation, settings: Settings) -> tuple[Manifest, ...]:
    """The policy of a job, if the settings ask for one and the current one does not exist yet.

    Args:
        observation: of a job whose pods exist or are about to be created.
        settings: the administrator's.
    """
    job = observation.job
    if settings.trainer_network is None or job.spec is None:
        return ()
    policy = network_policy(job, job.spec.compute.nodes, settings.trainer_network, settings.trainer_port)
    return () if identity(policy) in observation.applied_children else (policy,)


def network_policy(job: JobView, nodes: int, network: TrainerNetwork, port: int) -> Manifest:
    """The policy of a job's pods: of the check and of every attempt.

    Args:
        job: the job.
        nodes: how many pods train together. These reach each other at every port: gloo and NCCL choose their own.
        network: what the administrator allows.
        port: at which trainers serve `/progress` and `/metrics`.
    """
    own_pods = {UID_LABEL: job.uid}
    ingress: list[Manifest] = []
    if network.scrapers:
        ingress.append({"from": [_selector(peer) for peer in network.scrapers], "ports": [_tcp(port)]})
    egress: list[Manifest] = []
    if nodes > 1:
        ingress.append({"from": [_own(own_pods)]})
        egress.append({"to": [_own(own_pods)]})
    return _policy(child_metadata(job, policy_name(job.name, job.uid)), own_pods, network, ingress, egress)


def report_policy(experiment: ExperimentView, network: TrainerNetwork) -> Manifest:
    """The policy of the pods that write an experiment's report: nobody connects to them.

    Args:
        experiment: the experiment.
        network: what the administrator allows.
    """
    labels = experiment_labels(experiment.name, experiment.uid)
    metadata = owned_metadata(experiment, policy_name(experiment.name, experiment.uid), labels)
    return _policy(metadata, {EXPERIMENT_UID_LABEL: experiment.uid}, network, [], [])


def _policy(metadata: Manifest, pods: Mapping[str, str], network: TrainerNetwork, ingress: list[Manifest],
            egress: list[Manifest]) -> Manifest:
    """The policy of the pods with these labels; `egress` is beside what the administrator allows."""
    allowed: list[Manifest] = [_dns_rule(network), *(_rule(one, network.excluded) for one in network.destinations)]
    return hashed({
        "apiVersion": API_VERSIONS["NetworkPolicy"], "kind": "NetworkPolicy", "metadata": metadata,
        "spec": {**_own(pods), "policyTypes": ["Ingress", "Egress"], "ingress": ingress, "egress": [*allowed, *egress]},
    })


def _own(labels: Mapping[str, str]) -> Manifest:
    return {"podSelector": _labelled(labels)}


def _dns_rule(network: TrainerNetwork) -> Manifest:
    servers = [{"namespaceSelector": {}}, *(_selector(peer, network.node_addresses) for peer in EVERYWHERE),
               *(_selector(Peer(cidr=cidr)) for cidr in network.node_local_dns)]
    return {"to": servers, "ports": [{"protocol": "UDP", "port": _DNS_PORT}, _tcp(_DNS_PORT)]}


def _rule(destination: Destination, excluded: Sequence[str]) -> Manifest:
    rule: Manifest = {"to": [_selector(destination, excluded)]}
    if destination.ports:
        rule["ports"] = [_tcp(port) for port in destination.ports]
    return rule


def _selector(peer: Peer, excluded: Sequence[str] = ()) -> Manifest:
    if peer.cidr is not None:
        block: Manifest = {"cidr": peer.cidr}
        if exceptions := _within(peer.cidr, excluded):
            block["except"] = exceptions
        return {"ipBlock": block}
    selector: Manifest = {}
    if peer.namespace_labels is not None:
        selector["namespaceSelector"] = _labelled(peer.namespace_labels)
    if peer.pod_labels is not None:
        selector["podSelector"] = _labelled(peer.pod_labels)
    return selector


def _within(cidr: str, ranges: Sequence[str]) -> list[str]:
    """The ranges inside a wider range, without those that another of them contains."""
    inside = [one for one in ranges if _contains(cidr, one)]
    return [one for one in inside if not any(_contains(other, one) for other in inside)]


def _contains(outer: str, inner: str) -> bool:
    wide, narrow = ip_network(outer), ip_network(inner)
    return wide.version == narrow.version and wide != narrow and narrow.subnet_of(wide)  # type: ignore[arg-type]


def _labelled(labels: Mapping[str, str]) -> Manifest:
    return {"matchLabels": dict(labels)} if labels else {}


def _tcp(port: int) -> Manifest:
    return {"protocol": "TCP", "port": port}
