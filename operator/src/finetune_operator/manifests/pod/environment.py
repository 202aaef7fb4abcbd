"""The environment variables of a trainer and of a check. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from finetune_api.spec.job import FineTuneJobSpec

from finetune_operator.manifests.child import Manifest
from finetune_operator.manifests.pod.volumes import CACHE, PVC_ROOT
from finetune_operator.settings import Settings

_OPTIONAL_KEYS = ("AWS_SESSION_TOKEN",)


def trainer_environment(spec: FineTuneJobSpec, settings: Settings, *, has_accelerator: bool) -> list[Manifest]:
    """The variables of a trainer or a check.

    Args:
        spec: of the job.
        settings: the administrator's.
        has_accelerator: whether the pod requests accelerators.
    """
    return _environment(settings, (*_input_keys(spec), *_output_keys(spec)), has_accelerator)


def report_environment(spec: FineTuneJobSpec, settings: Settings) -> list[Manifest]:
    """The variables of a pod that reads results and writes a report: it gets the keys of the output only.

    Args:
        spec: of a job with the experiment's output.
        settings: the administrator's.
    """
    return _environment(settings, tuple(_output_keys(spec)), has_accelerator=False)


def _environment(settings: Settings, secret_keys: Sequence[tuple[str, str]], has_accelerator: bool) -> list[Manifest]:
    values = {"HOME": "/tmp", "TMPDIR": "/tmp", "HF_HOME": f"{CACHE}/huggingface", "FINETUNE_CACHE": CACHE,
              "FINETUNE_PVC_ROOT": PVC_ROOT, "FINETUNE_DATASET_HOSTS": ",".join(settings.allowed.dataset_hosts)}
    if not has_accelerator:
        # On a node with accelerators, the runtime gives all of them to a pod that requests none.
        values |= {"CUDA_VISIBLE_DEVICES": "", "NVIDIA_VISIBLE_DEVICES": "void"}
    variables = _variables(values)
    # The pod's CPU request, rounded up, after podTemplate is merged. The host has more CPUs, for other pods.
    variables.append({"name": "FINETUNE_CPUS",
                      "valueFrom": {"resourceFieldRef": {"resource": "requests.cpu", "divisor": "1"}}})
    for secret, key in secret_keys:
        reference: Manifest = {"name": secret, "key": key}
        if key in _OPTIONAL_KEYS:
            reference["optional"] = True
        variables.append({"name": key, "valueFrom": {"secretKeyRef": reference}})
    return variables


def rendezvous_variables(nodes: int, address: str) -> list[Manifest]:
    """The variables that tell a pod how many nodes train together and where they meet.

    Args:
        nodes: how many.
        address: host and port of the first pod.
    """
    return _variables({"FINETUNE_NODES": str(nodes), "FINETUNE_RENDEZVOUS": address})


def _variables(values: dict[str, str]) -> list[Manifest]:
    return [{"name": name, "value": value} for name, value in values.items()]


def _input_keys(spec: FineTuneJobSpec) -> Iterator[tuple[str, str]]:
    """Name and key of the Secrets' entries for what is read. The keys are fixed: an author names only the Secret."""
    reference = spec.evaluation.reference
    if spec.model.token_secret_ref:
        yield spec.model.token_secret_ref.name, "HF_TOKEN"
    if reference and reference.api_key_secret_ref:
        yield reference.api_key_secret_ref.name, "OPENAI_API_KEY"


def _output_keys(spec: FineTuneJobSpec) -> Iterator[tuple[str, str]]:
    """Name and key of the Secret's entries for the output."""
    s3 = spec.output.s3
    if s3 and s3.credentials_secret_ref:
        for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
            yield s3.credentials_secret_ref.name, key
