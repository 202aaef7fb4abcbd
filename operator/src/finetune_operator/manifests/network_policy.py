"""The NetworkPolicy of a job's pods: who may ask them, and what they may reach. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import ip_network

from finetune_operator.manifests.child import Manifest, child_metadata, hashed, identity
from finetune_operator.names import API_VERSIONS, UID_LABEL, policy_name
from finetune_operator.observed.objects import JobView
from finetune_operator.observed.observation import Observation
from finetune_operator.settings import Destination, Peer, Settings, TrainerNetwork

EVERYWHERE = (Peer(cidr="0.0.0.0/0"), Peer(cidr="::/0"))


def missing(seen: Observation, settings: Settings) -> tuple[Manifest, ...]:
    """The policy of a job whose pods are, or are about to be; nothing where it stands already, or none is wanted."""
    if settings.trainer_network is None or seen.job.spec is None:
        return ()
    policy = network_policy(seen.job, seen.job.spec.compute.nodes, settings.trainer_network, settings.trainer_port)
    return () if identity(policy) in seen.applied else (policy,)


def network_policy(job: JobView, nodes: int, network: TrainerNetwork, port: int) -> Manifest:
    """The policy of a job's pods, preflight's and every attempt's.

    Args:
        job: the job.
        nodes: how many pods train together; these reach each other at every port (gloo and NCCL choose their own).
        network: what the administrator allows.
        port: of `/progress` and `/metrics` in a trainer.
    """
    ours = {"podSelector": {"matchLabels": {UID_LABEL: job.uid}}}
    ingress: list[Manifest] = []
    if network.scrapers:
        ingress.append({"from": [_selector(peer) for peer in network.scrapers], "ports": [_tcp(port)]})
    names = [{"namespaceSelector": {}}, *(_selector(peer, network.node_addresses) for peer in EVERYWHERE),
             *(_selector(Peer(cidr=cidr)) for cidr in network.node_local_dns)]
    egress: list[Manifest] = [
        {"to": names, "ports": [{"protocol": "UDP", "port": 53}, _tcp(53)]},
        *(_rule(one, network.excluded) for one in network.destinations),
    ]
    if nodes > 1:
        ingress.append({"from": [ours]})
        egress.append({"to": [ours]})
    return hashed({
        "apiVersion": API_VERSIONS["NetworkPolicy"], "kind": "NetworkPolicy",
        "metadata": child_metadata(job, policy_name(job.name, job.uid)),
        "spec": {"podSelector": ours["podSelector"], "policyTypes": ["Ingress", "Egress"], "ingress": ingress,
                 "egress": egress},
    })


def _rule(destination: Destination, excluded: Sequence[str]) -> Manifest:
    rule: Manifest = {"to": [_selector(destination, excluded)]}
    if destination.ports:
        rule["ports"] = [_tcp(port) for port in destination.ports]
    return rule


def _selector(peer: Peer, excluded: Sequence[str] = ()) -> Manifest:
    if peer.cidr is not None:
        block: Manifest = {"cidr": peer.cidr}
        if excepted := _within(peer.cidr, excluded):
            block["except"] = excepted
        return {"ipBlock": block}
    selector: Manifest = {}
    if peer.namespace_labels is not None:
        selector["namespaceSelector"] = _labelled(peer.namespace_labels)
    if peer.pod_labels is not None:
        selector["podSelector"] = _labelled(peer.pod_labels)
    return selector


def _within(cidr: str, ranges: Sequence[str]) -> list[str]:
    """Those of some ranges that a range holds and is wider than, without those that another of them holds."""
    held = [one for one in ranges if _holds(cidr, one)]
    return [one for one in held if not any(_holds(other, one) for other in held)]


def _holds(outer: str, inner: str) -> bool:
    wide, narrow = ip_network(outer), ip_network(inner)
    return wide.version == narrow.version and wide != narrow and narrow.subnet_of(wide)  # type: ignore[arg-type]


def _labelled(labels: Mapping[str, str]) -> Manifest:
    return {"matchLabels": dict(labels)} if labels else {}


def _tcp(port: int) -> Manifest:
    return {"protocol": "TCP", "port": port}
