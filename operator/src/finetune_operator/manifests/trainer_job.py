"""The objects that make up an attempt, as plain data. Pure."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from finetune_api.base import GROUP, VERSION
from finetune_api.layout import LIMITS_FILE, RUN_FILE
from finetune_api.messages import Accelerator as AcceleratorMessage
from finetune_api.messages import Limits, RunConfig
from finetune_api.quantities import Quantity
from finetune_api.resolve import resolve_defaults, spec_hash
from finetune_api.spec.compute import Toleration
from finetune_api.spec.job import KIND, FineTuneJobSpec
from finetune_api.status import FineTuneJobStatus
from finetune_api.uris import Uri

from finetune_operator.decide import budget
from finetune_operator.manifests.ownership import child_metadata, hashed
from finetune_operator.manifests.pod_template import merged
from finetune_operator.names import INDEX_ANNOTATION, KUEUE_LABEL, attempt_name, labels, limits_name, run_name
from finetune_operator.observed.objects import JobView
from finetune_operator.settings import Accelerator, Settings

Object = dict[str, Any]

RUN_FOLDER = "/etc/finetune/run"
LIMITS_FOLDER = "/etc/finetune/limits"
PVC_ROOT = "/pvc"
CACHE = "/cache"
DISK = "ephemeral-storage"
RENDEZVOUS_PORT = 29400
_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"
UPLOAD_BYTES_PER_SECOND = 50e6
"""Assumed of the way to the output."""


def run_config(job: JobView, spec: FineTuneJobSpec, number: int, image: str, status: FineTuneJobStatus,
               settings: Settings) -> RunConfig:
    """The run configuration of an attempt; the digest of the spec and the price are those of the start."""
    resolved = resolve_defaults(spec)
    digest = status.spec_hash or spec_hash(resolved)
    if resolved.model.source.scheme == "hub" and status.preflight and status.preflight.model_revision:
        # A branch may move on between attempts: all of them train what preflight saw.
        model = resolved.model.model_copy(update={"revision": status.preflight.model_revision})
        resolved = resolved.model_copy(update={"model": model})
    accelerator = settings.accelerators.get(spec.compute.accelerator, Accelerator())
    cost = status.cost
    memory = int(accelerator.memory.value) if accelerator.memory else None
    name = "cpu" if accelerator.resource is None else spec.compute.accelerator
    return RunConfig(
        namespace=job.namespace, name=job.name, uid=job.uid, attempt=number, spec=resolved,
        spec_hash=digest, image=image, allowed_plugins=settings.allowed.reward_plugins,
        accelerator=AcceleratorMessage(
            name=name, memory_bytes=memory, host_memory_bytes=int(_host_memory(spec, accelerator).value),
            hourly_rate=cost.hourly_rate if cost else accelerator.hourly_price,
            currency=cost.currency if cost else "USD"),
        date=job.created_at.astimezone(UTC).date(),
    )


def run_map(job: JobView, number: int, text: str) -> Object:
    """The immutable ConfigMap with an attempt's run configuration."""
    return {
        "apiVersion": "v1", "kind": "ConfigMap", "immutable": True,
        "metadata": child_metadata(job, run_name(job.name, job.uid, number), number),
        "data": {RUN_FILE: text},
    }


def limits_map(job: JobView, number: int, limits: Limits) -> Object:
    """The ConfigMap with what may change while a trainer runs."""
    return hashed({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": child_metadata(job, limits_name(job.name, job.uid, number), number),
        "data": {LIMITS_FILE: limits.model_dump_json(exclude_none=True)},
    })


def _grace_seconds(job: JobView, settings: Settings) -> int:
    """The time that a checkpoint takes to the output, where preflight has said how large it will be."""
    known = job.status.preflight
    upload = (known.checkpoint_bytes or 0) / UPLOAD_BYTES_PER_SECOND if known else 0
    return math.ceil(max(settings.termination_grace.total_seconds(), upload))


def rendezvous_service(job: JobView, number: int) -> Object:
    """The Service whose address leads to the first pod of an attempt, before it is ready.

    Its address and not a name: so nothing here needs the cluster's DNS.
    """
    return hashed({
        "apiVersion": "v1", "kind": "Service",
        "metadata": child_metadata(job, attempt_name(job.name, number), number),
        "spec": {
            "publishNotReadyAddresses": True,
            "selector": {**_pod_labels(job, number), INDEX_ANNOTATION: "0"},
            "ports": [{"name": "rendezvous", "port": RENDEZVOUS_PORT}],
        },
    })


def attempt_job(job: JobView, spec: FineTuneJobSpec, number: int, image: str, accelerator: Accelerator,
                settings: Settings, rendezvous: str | None = None) -> Object:
    """The Job of an attempt: made once, never applied again.

    Args:
        job: the job that it is for.
        spec: the job's spec.
        number: the attempt's.
        image: the trainer's.
        accelerator: what it runs on.
        settings: the administrator's.
        rendezvous: the address at which several nodes find the first.
    """
    compute = spec.compute
    metadata = child_metadata(job, attempt_name(job.name, number), number)
    if compute.queue_name:
        metadata["labels"][KUEUE_LABEL] = compute.queue_name
    body: Object = {
        "completionMode": "Indexed", "completions": compute.nodes, "parallelism": compute.nodes,
        "backoffLimit": 0, "podReplacementPolicy": "Failed",
        "template": merged(_pod_template(job, spec, number, image, accelerator, settings, rendezvous),
                           settings.pod_template, accelerator.pod_template),
    }
    if compute.queue_name:
        body["suspend"] = True  # Kueue starts it; nobody else touches this field again.
    if spec.budget.max_duration:
        limit_time(body, spec.budget.max_duration + budget.RESERVE)
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": body}


def keep_away(job: Object, nodes: Iterable[str]) -> None:
    """Keep a Job's pods away from nodes, whatever else an administrator's template asks of one."""
    avoided = [_other_than(node) for node in nodes]
    if not avoided:
        return
    pod = job["spec"]["template"]["spec"]
    affinity = pod.get("affinity") or {}
    of_nodes = affinity.get("nodeAffinity") or {}
    required = of_nodes.get(_REQUIRED) or {}
    # One term is enough for a node to fit, so each of them has to say it.
    terms = [{**term, "matchFields": [*(term.get("matchFields") or ()), *avoided]}
             for term in required.get("nodeSelectorTerms") or [{}]]
    pod["affinity"] = {**affinity, "nodeAffinity": {**of_nodes, _REQUIRED: {**required, "nodeSelectorTerms": terms}}}


def prefer_others(job: Object, node: str) -> None:
    """Have a Job's pods go to other nodes than one, where there are any that take them."""
    pod = job["spec"]["template"]["spec"]
    affinity = pod.get("affinity") or {}
    of_nodes = affinity.get("nodeAffinity") or {}
    wishes = [*(of_nodes.get(_PREFERRED) or ()), {"weight": 100, "preference": {"matchFields": [_other_than(node)]}}]
    pod["affinity"] = {**affinity, "nodeAffinity": {**of_nodes, _PREFERRED: wishes}}


def _other_than(node: str) -> Object:
    return {"key": "metadata.name", "operator": "NotIn", "values": [node]}


def limit_time(body: Object, time: timedelta) -> None:
    """Have the kubelet end a Job's pods after a time on their node; a Job's own limit would count the wait for one."""
    body["template"]["spec"]["activeDeadlineSeconds"] = int(time.total_seconds())


def _pod_template(job: JobView, spec: FineTuneJobSpec, number: int, image: str, accelerator: Accelerator,
                  settings: Settings, rendezvous: str | None) -> Object:
    compute = spec.compute
    tolerations = [*accelerator.tolerations, *(settings.spot_tolerations if compute.spot else ()),
                   *(compute.tolerations or ())]
    volumes, mounts = _volumes(job, spec, number, accelerator, settings)
    pod: Object = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": _grace_seconds(job, settings),
        "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532,
                            "fsGroupChangePolicy": "OnRootMismatch", "seccompProfile": {"type": "RuntimeDefault"}},
        "nodeSelector": {**accelerator.node_selector, **(compute.node_selector or {})},
        "tolerations": [_toleration(one) for one in tolerations],
        "volumes": volumes,
        "containers": [{
            "name": "trainer", "image": image, "imagePullPolicy": settings.image_pull_policy,
            "args": _arguments(settings),
            "env": _environment(spec, accelerator, settings, rendezvous),
            "ports": [{"name": "metrics", "containerPort": settings.trainer_port}],
            "resources": _resources(spec, accelerator),
            "volumeMounts": mounts,
            "terminationMessagePolicy": "File",
            "securityContext": {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                                "capabilities": {"drop": ["ALL"]}},
        }],
    }
    if settings.image_pull_secrets:
        pod["imagePullSecrets"] = [{"name": name} for name in settings.image_pull_secrets]
    if compute.service_account_name:
        pod["serviceAccountName"] = compute.service_account_name
    if compute.priority_class_name:
        pod["priorityClassName"] = compute.priority_class_name
    return {"metadata": {"labels": _pod_labels(job, number)}, "spec": pod}


def _arguments(settings: Settings) -> list[str]:
    return ["run", "--config", RUN_FOLDER, "--limits", LIMITS_FOLDER, "--port", str(settings.trainer_port)]


def _environment(spec: FineTuneJobSpec, accelerator: Accelerator, settings: Settings, rendezvous: str | None
                 ) -> list[Object]:
    plain = {"HOME": "/tmp", "TMPDIR": "/tmp", "HF_HOME": f"{CACHE}/huggingface", "FINETUNE_CACHE": CACHE,
             "FINETUNE_PVC_ROOT": PVC_ROOT, "FINETUNE_DATASET_HOSTS": ",".join(settings.allowed.dataset_hosts)}
    if accelerator.resource is None:
        # On a node with accelerators, where the runtime hands all of them to a pod that asks for none.
        plain |= {"CUDA_VISIBLE_DEVICES": "", "NVIDIA_VISIBLE_DEVICES": "void"}
    if rendezvous is not None:
        plain |= {"FINETUNE_NODES": str(spec.compute.nodes), "FINETUNE_RENDEZVOUS": f"{rendezvous}:{RENDEZVOUS_PORT}"}
    variables: list[Object] = [{"name": name, "value": value} for name, value in plain.items()]
    # What the pod asked for, rounded up, with what podTemplate made of it: a host has more, for others.
    variables.append({"name": "FINETUNE_CPUS",
                      "valueFrom": {"resourceFieldRef": {"resource": "requests.cpu", "divisor": "1"}}})
    reference = spec.evaluation.reference
    for secret, keys in (
        (spec.model.token_secret_ref, ("HF_TOKEN",)),
        (spec.output.s3.credentials_secret_ref if spec.output.s3 else None,
         ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")),
        (reference.api_key_secret_ref if reference else None, ("OPENAI_API_KEY",)),
    ):
        for key in keys if secret else ():
            assert secret is not None
            source: Object = {"name": secret.name, "key": key}
            if key == "AWS_SESSION_TOKEN":
                source["optional"] = True
            variables.append({"name": key, "valueFrom": {"secretKeyRef": source}})
    return variables


def _count(spec: FineTuneJobSpec, accelerator: Accelerator) -> int:
    """How many accelerators' worth of the host one pod gets."""
    return spec.compute.gpus_per_node if accelerator.resource else 1


def _host_memory(spec: FineTuneJobSpec, accelerator: Accelerator) -> Quantity:
    return spec.compute.memory or _times(accelerator.host_memory, _count(spec, accelerator))


def _resources(spec: FineTuneJobSpec, accelerator: Accelerator) -> Object:
    count = _count(spec, accelerator)
    cpu = spec.compute.cpu or _times(accelerator.cpu, count)
    memory = _host_memory(spec, accelerator)
    # Without a request of its own the limit would be one.
    asked = accelerator.ephemeral_storage_request
    requests = {"cpu": str(cpu), "memory": str(memory), DISK: str(_times(asked, count)) if asked else "0"}
    limits = {"memory": str(memory), DISK: str(_times(accelerator.ephemeral_storage, count))}
    if accelerator.resource:
        requests[accelerator.resource] = limits[accelerator.resource] = str(count)
    return {"requests": requests, "limits": limits}


def _times(quantity: Quantity, count: int) -> Quantity:
    return quantity if count == 1 else Quantity(f"{int(quantity.value * count * 1000)}m")


def _volumes(job: JobView, spec: FineTuneJobSpec, number: int, accelerator: Accelerator, settings: Settings
             ) -> tuple[list[Object], list[Object]]:
    scratch = {"emptyDir": {"sizeLimit": str(_times(accelerator.ephemeral_storage, _count(spec, accelerator)))}}
    cache: Object = ({"persistentVolumeClaim": {"claimName": settings.model_cache_claim}}
                     if settings.model_cache_claim else scratch)
    # Data loaders and NCCL need more than the 64 MiB default. It counts as the container's memory.
    shared = {"emptyDir": {"medium": "Memory", "sizeLimit": str(_host_memory(spec, accelerator))}}
    volumes: list[Object] = [
        {"name": "run", "configMap": {"name": run_name(job.name, job.uid, number)}},
        {"name": "limits", "configMap": {"name": limits_name(job.name, job.uid, number)}},
        {"name": "tmp", **scratch},
        {"name": "shm", **shared},
        {"name": "cache", **cache},
    ]
    mounts: list[Object] = [
        {"name": "run", "mountPath": RUN_FOLDER, "readOnly": True},
        {"name": "limits", "mountPath": LIMITS_FOLDER, "readOnly": True},
        {"name": "tmp", "mountPath": "/tmp"},
        {"name": "shm", "mountPath": "/dev/shm"},
        {"name": "cache", "mountPath": CACHE},
    ]
    for index, (claim, read_only) in enumerate(sorted(_claims(spec).items())):
        volumes.append({"name": f"claim-{index}", "persistentVolumeClaim": {"claimName": claim, "readOnly": read_only}})
        mounts.append({"name": f"claim-{index}", "mountPath": f"{PVC_ROOT}/{claim}", "readOnly": read_only})
    return volumes, mounts


def claims(spec: FineTuneJobSpec, settings: Settings) -> frozenset[str]:
    """The names of the claims that a job's pods mount."""
    cache = (settings.model_cache_claim,) if settings.model_cache_claim else ()
    return frozenset((*_claims(spec), *cache))


def _claims(spec: FineTuneJobSpec) -> dict[str, bool]:
    """The claims that a job uses, and whether it only reads them."""
    claims: dict[str, bool] = {}
    location: Uri
    for location, read_only in ((spec.model.source, True), (spec.dataset.source, True), (spec.output.uri, False)):
        if location.scheme == "pvc":
            claims[location.authority] = claims.get(location.authority, True) and read_only
    return claims


def _toleration(toleration: Toleration) -> Object:
    dumped: Object = toleration.model_dump(mode="json", exclude_none=True)
    return dumped


def _pod_labels(job: JobView, number: int) -> dict[str, str]:
    return {**labels(job.name, job.uid, number), "app.kubernetes.io/name": "finetune-trainer"}


def event(job: JobView, kind: str, reason: str, message: str, key: str, now: datetime) -> Object:
    """An Event about a job. Its name is made of what it says, so the same one is never written twice."""
    digest = hashlib.sha256(f"{job.uid} {reason} {message} {key}".encode()).hexdigest()[:16]
    stamp = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "apiVersion": "v1", "kind": "Event", "type": kind, "reason": reason, "message": message[:1024],
        "metadata": {"namespace": job.namespace, "name": f"{job.name}.{digest}"},
        "involvedObject": {"apiVersion": f"{GROUP}/{VERSION}", "kind": KIND, "namespace": job.namespace,
                           "name": job.name, "uid": job.uid},
        "source": {"component": "finetune-operator"}, "reportingComponent": "finetune-operator",
        "reportingInstance": "finetune-operator", "count": 1, "firstTimestamp": stamp, "lastTimestamp": stamp,
    }
