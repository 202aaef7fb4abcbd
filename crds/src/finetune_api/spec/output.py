"""Where the result is published."""

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
    """How to reach S3, for every `s3://` location of the job. Default: AWS with the environment's credentials."""

    endpoint_url: HttpAddress | None = None
    """Address of an S3-compatible server, such as `http://minio:9000`."""

    region: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,64}$")] | None = None
    """Region of the bucket."""

    path_style: bool | None = None
    """Address buckets by path instead of by host name. Default: true if `endpointUrl` is set."""

    credentials_secret_ref: SecretRef | None = None
    """Secret with the keys `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and, if needed, `AWS_SESSION_TOKEN`."""


class OutputSpec(ApiModel):
    """Where the trainer writes checkpoints and results: below `<uri>/<namespace>/<name>/<uid>/`."""

    uri: OutputUri
    """Location of the output: `s3://bucket/prefix`, `pvc://claim/folder`, or, with `finetune run`,
    `file://./folder`."""

    s3: S3Spec | None = None
    """Settings of `s3://` locations."""

    exports: Annotated[tuple[Export, ...], Field(min_length=1, max_length=2)] = (Export.ADAPTER,)
    """What to publish. `adapter` is what was trained: an adapter, changed parameters, or, with Full, the whole model.
    `merged` adds the whole model with the adapter merged in."""
