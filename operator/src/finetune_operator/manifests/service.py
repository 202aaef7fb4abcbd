"""The Service by which the pods of an attempt on several nodes find each other. Pure."""

from __future__ import annotations

from finetune_operator.manifests.child import Manifest, child_metadata, hashed
from finetune_operator.manifests.pod.labels import pod_labels
from finetune_operator.names import INDEX_ANNOTATION, attempt_name, labels
from finetune_operator.observed.job import JobView

RENDEZVOUS_PORT = 29400


def rendezvous_service(job: JobView, number: int) -> Manifest:
    """The Service whose address leads to the first pod of an attempt, even before that pod is ready.

    Pods use its address and not its name, so that they do not need the cluster's DNS.
    """
    return hashed({
        "apiVersion": "v1", "kind": "Service",
        "metadata": child_metadata(job, attempt_name(job.name, number), number),
        "spec": {
            "publishNotReadyAddresses": True,
            "selector": {**pod_labels(labels(job.name, job.uid, number)), INDEX_ANNOTATION: "0"},
            "ports": [{"name": "rendezvous", "port": RENDEZVOUS_PORT}],
        },
    })
