"""The Job around a pod template: an attempt's and a check's. Pure."""

from __future__ import annotations

from finetune_operator.manifests.child import Manifest
from finetune_operator.names import KUEUE_LABEL


def batch_job(metadata: Manifest, template: Manifest, nodes: int, queue_name: str | None) -> Manifest:
    """A Job that makes each pod once: the operator alone retries, with another Job.

    Args:
        metadata: of the Job.
        template: of its pods.
        nodes: how many pods it has.
        queue_name: Kueue LocalQueue; None for no queue.
    """
    spec: Manifest = {
        "completionMode": "Indexed", "completions": nodes, "parallelism": nodes,
        "backoffLimit": 0, "podReplacementPolicy": "Failed", "template": template,
    }
    if queue_name:
        metadata = {**metadata, "labels": {**metadata["labels"], KUEUE_LABEL: queue_name}}
        spec["suspend"] = True  # Only Kueue changes this field again.
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}
