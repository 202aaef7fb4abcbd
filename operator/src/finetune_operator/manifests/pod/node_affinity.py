"""Keeping a Job's pods away from nodes. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from finetune_operator.manifests.child import Manifest

_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"
_STRONGEST = 100


def avoiding_nodes(job: Manifest, nodes: Iterable[str]) -> Manifest:
    """The Job with pods that never run on some nodes; what the administrator's template requires stays."""
    avoided = [_other_than(node) for node in nodes]
    if not avoided:
        return job
    rules = _node_affinity(job)
    required = rules.get(_REQUIRED) or {}
    # A node needs to match only one term, so every term gets the condition.
    terms = [{**term, "matchFields": [*(term.get("matchFields") or ()), *avoided]}
             for term in required.get("nodeSelectorTerms") or [{}]]
    return _with_node_affinity(job, {**rules, _REQUIRED: {**required, "nodeSelectorTerms": terms}})


def preferring_other_nodes(job: Manifest, node: str) -> Manifest:
    """The Job with pods that run on a node only if no other node takes them."""
    rules = _node_affinity(job)
    preference = {"weight": _STRONGEST, "preference": {"matchFields": [_other_than(node)]}}
    return _with_node_affinity(job, {**rules, _PREFERRED: [*(rules.get(_PREFERRED) or ()), preference]})


def _other_than(node: str) -> Manifest:
    return {"key": "metadata.name", "operator": "NotIn", "values": [node]}


def _node_affinity(job: Manifest) -> Manifest:
    affinity = job["spec"]["template"]["spec"].get("affinity") or {}
    rules: Manifest = affinity.get("nodeAffinity") or {}
    return rules


def _with_node_affinity(job: Manifest, rules: Manifest) -> Manifest:
    spec, template = job["spec"], job["spec"]["template"]
    affinity = {**(template["spec"].get("affinity") or {}), "nodeAffinity": rules}
    pod = {**template["spec"], "affinity": affinity}
    return {**job, "spec": {**spec, "template": {**template, "spec": pod}}}
