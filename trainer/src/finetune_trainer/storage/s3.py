"""Objects below a prefix of an S3 bucket, on AWS or any server that speaks its protocol."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import boto3
from boto3.exceptions import S3UploadFailedError
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    EndpointConnectionError,
    NoCredentialsError,
    PartialCredentialsError,
)
from finetune_api.spec.output import S3Spec
from finetune_api.uris import Uri

from finetune_trainer.errors import BadConfig, MissingInput, OutputNotWritable, TrainerError

_TRANSFER = TransferConfig(multipart_threshold=16 << 20, multipart_chunksize=8 << 20, max_concurrency=4)
_BATCH = 1000
_ABSENT = {"404", "NoSuchKey", "NotFound"}
_KEYS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
_REASONS = {
    "InvalidAccessKeyId": f"the server doesn't know the access key; check {_KEYS}",
    "SignatureDoesNotMatch": f"the secret key doesn't fit the access key; check {_KEYS}",
    "ExpiredToken": "the credentials have expired; renew them, with AWS_SESSION_TOKEN",
    "InvalidToken": "the session token is not valid; check AWS_SESSION_TOKEN",
    "AccessDenied": "access is denied; the credentials need to list, read, write and delete there",
    "403": "access is denied; the credentials need to list, read, write and delete there",
    "NoSuchBucket": "there is no such bucket; create it, or correct its name",
    "PermanentRedirect": "the bucket is in another region; write spec.output.s3.region",
    "AuthorizationHeaderMalformed": "the bucket is in another region; write spec.output.s3.region",
    "RequestTimeTooSkewed": "the clock of this machine is wrong",
}


class S3Storage:
    """Storage in a bucket. Credentials come from the environment, as AWS' own tools read them; none is ever shown."""

    def __init__(self, root: Uri, settings: S3Spec | None) -> None:
        settings = settings or S3Spec()
        by_path = settings.path_style if settings.path_style is not None else settings.endpoint_url is not None
        self.root = root
        self._bucket = root.authority
        self._prefix = f"{root.path.strip('/')}/" if root.path.strip("/") else ""
        try:
            # A session of its own: the default one keeps the first credentials that it found.
            self._client: Any = boto3.Session().client(
                "s3",
                endpoint_url=settings.endpoint_url,
                region_name=settings.region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
                or "us-east-1",
                config=Config(
                    retries={"mode": "standard", "total_max_attempts": 4},
                    connect_timeout=3, read_timeout=60,
                    s3={"addressing_style": "path" if by_path else "auto"},
                    # Servers other than AWS don't all know the newer checksums.
                    request_checksum_calculation="when_required", response_checksum_validation="when_required",
                ),
            )
        except (BotoCoreError, ValueError) as error:
            raise BadConfig(f"spec.output.s3: {error}") from error

    def put_file(self, key: str, path: Path) -> None:
        """Write a local file, large ones in parts."""
        with self._words(key, OutputNotWritable):
            self._client.upload_file(str(path), self._bucket, self._key(key), Config=_TRANSFER)

    def put_bytes(self, key: str, content: bytes) -> None:
        """Write a small file."""
        with self._words(key, OutputNotWritable):
            self._client.put_object(Bucket=self._bucket, Key=self._key(key), Body=content)

    def create(self, key: str, content: bytes) -> bool:
        """Write a small file only if the key is free (If-None-Match: *)."""
        with self._words(key, OutputNotWritable):
            try:
                self._client.put_object(Bucket=self._bucket, Key=self._key(key), Body=content, IfNoneMatch="*")
            except ClientError as error:
                if _code(error) in ("PreconditionFailed", "412", "ConditionalRequestConflict"):
                    # A retry after an answer that was lost meets the object that it wrote itself.
                    return self.get_bytes(key) == content
                raise
        return True

    def get_bytes(self, key: str) -> bytes | None:
        """A small file's content, or None where it isn't there."""
        with self._words(key, MissingInput):
            try:
                content: bytes = self._client.get_object(Bucket=self._bucket, Key=self._key(key))["Body"].read()
            except ClientError as error:
                if _code(error) in _ABSENT:
                    return None
                raise
        return content

    def get_file(self, key: str, path: Path) -> None:
        """Copy a file to a local path; boto3 writes beside it and renames."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._words(key, MissingInput):
            self._client.download_file(self._bucket, self._key(key), str(path), Config=_TRANSFER)

    def keys(self, prefix: str) -> list[str]:
        """The keys that start with `prefix`, sorted."""
        with self._words(prefix, MissingInput):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix + prefix)
            return sorted(item["Key"].removeprefix(self._prefix) for page in pages for item in page.get("Contents", ()))

    def delete(self, keys: list[str]) -> None:
        """Remove files."""
        with self._words(keys[0] if keys else "", OutputNotWritable):
            for start in range(0, len(keys), _BATCH):
                objects = [{"Key": self._key(key)} for key in keys[start:start + _BATCH]]
                answer = self._client.delete_objects(Bucket=self._bucket, Delete={"Objects": objects, "Quiet": True})
                for fault in answer.get("Errors", ()):
                    raise OutputNotWritable(f"s3://{self._bucket}/{fault.get('Key')} can't be removed: "
                                            f"{_REASONS.get(fault.get('Code', ''), fault.get('Code'))}")

    def _key(self, key: str) -> str:
        if not key or key.startswith("/") or ".." in PurePosixPath(key).parts:
            raise BadConfig(f"{key!r} is not a path below {self.root}")
        return self._prefix + key

    @contextmanager
    def _words(self, key: str, kind: type[TrainerError]) -> Iterator[None]:
        """Turn what boto3 raises into a sentence; it never holds a header, a signature or a key."""
        place = f"s3://{self._bucket}/{self._prefix}{key}"
        doing = "can't be written" if kind is OutputNotWritable else "can't be read"
        try:
            yield
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise kind(f"{place} {doing}: no credentials were found; set {_KEYS}, or in a cluster "
                       "spec.output.s3.credentialsSecretRef") from error
        except ClientError as error:
            raise kind(f"{place} {doing}: {_reason(error)}") from error
        except S3UploadFailedError as error:
            cause = error.__context__
            why = _reason(cause) if isinstance(cause, ClientError) else type(cause or error).__name__
            raise kind(f"{place} {doing}: {why}") from error
        except EndpointConnectionError as error:
            raise kind(f"{place} {doing}: {self._client.meta.endpoint_url} can't be reached; check "
                       "spec.output.s3.endpointUrl and the network") from error
        except BotoCoreError as error:
            raise kind(f"{place} {doing}: {type(error).__name__} at {self._client.meta.endpoint_url}") from error


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _reason(error: ClientError) -> str:
    return _REASONS.get(_code(error), f"the server answered {_code(error)}")
