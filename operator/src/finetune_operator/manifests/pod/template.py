"""The pod template of a trainer and of a check. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from finetune_api.spec.compute import Toleration

from finetune_operator.manifests.child import Manifest
from finetune_operator.manifests.pod.admin_template import merged
from finetune_operator.manifests.pod.resources import PodResources
from finetune_operator.manifests.pod.volumes import Volume
from finetune_operator.settings import Settings

RUN_FOLDER = "/etc/finetune/run"
LIMITS_FOLDER = "/etc/finetune/limits"
_USER = 65532


@dataclass(frozen=True)
class PodRequest:
    """In what one pod differs from another.

    Attributes:
        labels: of the pod.
        image: of the container.
        arguments: of the container.
        environment: variables of the container.
        resources: what the container requests, and its limits.
        volumes: of the pod, mounted into the container.
        node_selector: labels of its nodes.
        tolerations: taints of its nodes that it tolerates.
        grace_seconds: time to end after SIGTERM.
        service_account_name: None for the namespace's default.
        priority_class_name: None for the cluster's default.
        port: at which it serves metrics and progress; None if it serves none.
        deadline: time on its node after which the kubelet ends it; None for no limit.
        admin_templates: the administrator's templates, merged in this order.
    """

    labels: Mapping[str, str]
    image: str
    arguments: tuple[str, ...]
    environment: Sequence[Manifest]
    resources: PodResources
    volumes: tuple[Volume, ...]
    node_selector: Mapping[str, str]
    tolerations: tuple[Toleration, ...]
    grace_seconds: int
    service_account_name: str | None = None
    priority_class_name: str | None = None
    port: int | None = None
    deadline: timedelta | None = None
    admin_templates: tuple[Mapping[str, Any], ...] = ()


def pod_template(request: PodRequest, settings: Settings) -> Manifest:
    """The template with the administrator's templates merged in."""
    pod: Manifest = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": request.grace_seconds,
        "securityContext": {"runAsNonRoot": True, "runAsUser": _USER, "runAsGroup": _USER, "fsGroup": _USER,
                            "fsGroupChangePolicy": "OnRootMismatch", "seccompProfile": {"type": "RuntimeDefault"}},
        "nodeSelector": dict(request.node_selector),
        "tolerations": [one.model_dump(mode="json", exclude_none=True) for one in request.tolerations],
        "volumes": [volume.as_manifest() for volume in request.volumes],
        "containers": [_container(request, settings)],
    }
    if settings.image_pull_secrets:
        pod["imagePullSecrets"] = [{"name": name} for name in settings.image_pull_secrets]
    if request.service_account_name:
        pod["serviceAccountName"] = request.service_account_name
    if request.priority_class_name:
        pod["priorityClassName"] = request.priority_class_name
    template = merged({"metadata": {"labels": dict(request.labels)}, "spec": pod}, *request.admin_templates)
    if request.deadline is not None:
        # A limit of the Job would also count the wait for a node.
        template["spec"] = {**template["spec"], "activeDeadlineSeconds": int(request.deadline.total_seconds())}
    return template


def _container(request: PodRequest, settings: Settings) -> Manifest:
    container: Manifest = {
        "name": "trainer", "image": request.image, "imagePullPolicy": settings.image_pull_policy,
        "args": list(request.arguments),
        "env": list(request.environment),
        "resources": request.resources.as_manifest(),
        "volumeMounts": [volume.mount() for volume in request.volumes],
        "terminationMessagePolicy": "File",
        "securityContext": {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                            "capabilities": {"drop": ["ALL"]}},
    }
    if request.port is not None:
        container["ports"] = [{"name": "metrics", "containerPort": request.port}]
    return container
