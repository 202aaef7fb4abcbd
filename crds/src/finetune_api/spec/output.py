"""Where the result goes."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from finetune_api.spec.model import SecretRef
from finetune_api.values.api_model import ApiModel
from finetune_api.values.uris import HttpAddress, OutputUri


class Export(StrEnum):
    """What is published."""

    ADAPTER = "adapter"
    MERGED = "merged"


class S3Spec(ApiModel):
    """How to reach S3, for every `s3://` location of the job. Left out: AWS, and the environment's credentials."""

    endpoint_url: HttpAddress | None = None
    """Address of an S3-compatible server, such as `http://minio:9000`."""

    region: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,64}$")] | None = None
    """Region of the bucket."""

    path_style: bool | None = None
    """Address buckets by path instead of by host name. Left out: by path wherever `endpointUrl` is set."""

    credentials_secret_ref: SecretRef | None = None
    """Secret with `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and, where needed, `AWS_SESSION_TOKEN`."""


class OutputSpec(ApiModel):
    """Where checkpoints and results are written, under `<uri>/<namespace>/<name>/<uid>/`."""

    uri: OutputUri
    """`s3://bucket/prefix`, `pvc://claim/folder`, or with `finetune run` `file://./folder`."""

    s3: S3Spec | None = None
    """Settings of `s3://` locations."""

    exports: Annotated[tuple[Export, ...], Field(min_length=1, max_length=2)] = (Export.ADAPTER,)
    """`adapter` is what was trained: an adapter, changed parameters, or with Full the whole model. `merged` adds a
    whole model with that merged in."""
