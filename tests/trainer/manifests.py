"""Results that an earlier run has left in an output, whole or tampered with."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from finetune_api.messages import Manifest, Outcome, PublishedFile, Result, RunConfig
from finetune_api.status import PublishedAdapter

WEIGHTS = b"the adapter's weights"


def publish(job: RunConfig, output: Path, *, uid: str = "earlier", outcome: Outcome = Outcome.SUCCEEDED,
            adapter: dict | None = None, tampered: dict | None = None, **change) -> Path:
    """Publish a small result of a job below an output, which is a folder; that of the job.

    Args:
        job: whose result it is.
        output: where to.
        uid: the identity of the run that published it.
        outcome: how that ended.
        adapter: what the manifest says otherwise of the adapter.
        tampered: what is written over in the manifest, as JSON.
        change: what the manifest says otherwise.
    """
    home = output / job.namespace / job.name / uid
    file = PublishedFile(path="results/1/adapter/adapter_model.safetensors", size_bytes=len(WEIGHTS),
                         sha256=hashlib.sha256(WEIGHTS).hexdigest())
    base = str(job.spec.model.source)
    named = {"uri": f"file://{home}/results/1/adapter", "sha256": file.sha256, "size_bytes": file.size_bytes,
             "base_model": base, **(adapter or {})}
    manifest = Manifest.model_validate({
        "namespace": job.namespace, "name": job.name, "uid": uid, "attempt": 1, "spec_hash": job.spec_hash,
        "data_hash": "d" * 64, "base_model": base, "base_revision": "b" * 64, "created": "2026-01-01T00:00:00Z",
        "files": (file,), "packages": {}, "run": {},
        "result": Result(outcome=outcome, message="it was so", adapter=PublishedAdapter(**named), manifest="there"),
        **change}, strict=False)
    (home / "results/1/adapter").mkdir(parents=True)
    (home / file.path).write_bytes(WEIGHTS)
    (home / "manifest.json").write_text(json.dumps({**json.loads(manifest.model_dump_json()), **(tampered or {})}))
    return home
