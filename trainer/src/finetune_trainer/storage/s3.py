"""Storage below a prefix of an S3 bucket, on AWS or on a compatible server."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal
from urllib.parse import urlsplit

import boto3
from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from finetune_api.messages import PublishedFile
from finetune_api.spec.output import S3Spec
from finetune_api.values.paths import relative_path
from finetune_api.values.uris import Uri

from finetune_trainer.errors import BadConfig, MissingInput, OutputNotWritable, TrainerError
from finetune_trainer.storage.interface import require_small
from finetune_trainer.storage.s3_reasons import code_of, reason, reason_of_code

_TRANSFER = TransferConfig(multipart_threshold=16 << 20, multipart_chunksize=8 << 20, max_concurrency=4)
_BATCH = 1000
_CONFLICTS = 5
_ABSENT = {"404", "NoSuchKey", "NotFound"}
_CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


class S3Storage:
    """Storage in a bucket. Credentials come from the environment, as for AWS' own tools; no message contains them.

    A server that has never answered fails after about 15 seconds, so a wrong address fails before training. A server
    that has answered once gets up to 5 attempts of 60 seconds.
    """

    first_answer_seconds: ClassVar[float] = 6
    """The timeout for a server that has never answered; two attempts."""

    answer_seconds: ClassVar[float] = 60
    """The timeout for a server that has answered; five attempts."""

    def __init__(self, root: Uri, settings: S3Spec | None) -> None:
        """Prepare the clients. No request is sent yet.

        Raises:
            BadConfig: credentials contain a line break, or the endpoint is not a URL.
        """
        settings = settings or S3Spec()
        self.root = root
        self._bucket = root.authority
        self._prefix = f"{root.path.strip('/')}/" if root.path.strip("/") else ""
        _refuse_broken_credentials()
        _refuse_credentials_in_address()
        try:
            # A new session: the default session keeps the first credentials that it found.
            session = boto3.Session()
            self._hurried = _client(session, settings, attempts=2, read_seconds=self.first_answer_seconds)
            self._patient = _client(session, settings, attempts=5, read_seconds=self.answer_seconds)
        except (BotoCoreError, ValueError) as error:
            raise BadConfig(f"spec.output.s3: {error}") from error
        self._answered = False

    @property
    def _client(self) -> Any:
        return self._patient if self._answered else self._hurried

    def put_file(self, key: str, path: Path) -> None:
        """Write a local file; a large file in parts."""
        with self._words(key, OutputNotWritable):
            self._client.upload_file(str(path), self._bucket, self._key(key), Config=_TRANSFER)

    def put_bytes(self, key: str, content: bytes) -> None:
        """Write a small file."""
        with self._words(key, OutputNotWritable):
            self._client.put_object(Bucket=self._bucket, Key=self._key(key), Body=content)

    def create(self, key: str, content: bytes) -> bool:
        """Write a small file only if the key is free (If-None-Match: *)."""
        with self._words(key, OutputNotWritable):
            for _ in range(_CONFLICTS):
                try:
                    self._client.put_object(Bucket=self._bucket, Key=self._key(key), Body=content, IfNoneMatch="*")
                    return True
                except ClientError as error:
                    if code_of(error) in ("PreconditionFailed", "412"):
                        # If an answer was lost, the retry finds the object that it wrote itself.
                        return self._read(key) == content
                    if code_of(error) not in ("ConditionalRequestConflict", "409"):
                        raise
                    # Another write is in progress and may fail: AWS asks to try again.
        raise OutputNotWritable(f"{self.root.join(key)} can't be written: others wrote it at the same time in "
                                f"{_CONFLICTS} attempts; check what else writes there")

    def get_bytes(self, key: str) -> bytes | None:
        """The content of a small file; None where it does not exist."""
        with self._words(key, MissingInput):
            return self._read(key)

    def get_start(self, key: str, count: int) -> tuple[bytes, int]:
        """The first bytes of a file, and its size in bytes."""
        with self._words(key, MissingInput):
            size = int(self._client.head_object(Bucket=self._bucket, Key=self._key(key))["ContentLength"])
            if not size:
                return b"", 0
            answer = self._client.get_object(Bucket=self._bucket, Key=self._key(key), Range=f"bytes=0-{count - 1}")
            content: bytes = answer["Body"].read()
        return content[:count], size

    def get_file(self, key: str, path: Path) -> None:
        """Copy a file to a local path; boto3 writes beside the path and renames."""
        with self._words(key, MissingInput):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._client.download_file(self._bucket, self._key(key), str(path), Config=_TRANSFER)
            except OSError as error:
                raise MissingInput(f"{self.root.join(key)} can't be copied to {path.parent}: {error.strerror}"
                                   ) from error

    def digest(self, key: str) -> PublishedFile | None:
        """The digest and the size of a stored file."""
        with self._words(key, MissingInput):
            digest = _Digest()
            try:
                # boto3 resumes after a broken connection, and writes in order to an object that has no seek.
                self._client.download_fileobj(self._bucket, self._key(key), digest, Config=_TRANSFER)
            except ClientError as error:
                if code_of(error) in _ABSENT:
                    return None
                raise
            return PublishedFile(path=key, sha256=digest.sha256.hexdigest(), size_bytes=digest.size)

    def keys(self, prefix: str) -> list[str]:
        """The keys that start with `prefix`, sorted. Keys that are no paths (folders of a console) are left out."""
        with self._words(prefix, MissingInput):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix + prefix)
            found = (item["Key"].removeprefix(self._prefix) for page in pages for item in page.get("Contents", ()))
            return sorted(filter(_is_path, found))

    def delete(self, keys: list[str]) -> None:
        """Remove files."""
        if not keys:
            return
        with self._words(keys[0], OutputNotWritable):
            for start in range(0, len(keys), _BATCH):
                objects = [{"Key": self._key(key)} for key in keys[start:start + _BATCH]]
                answer = self._client.delete_objects(Bucket=self._bucket, Delete={"Objects": objects, "Quiet": True})
                for fault in answer.get("Errors", ()):
                    raise OutputNotWritable(f"s3://{self._bucket}/{fault.get('Key')} can't be removed: "
                                            f"{reason_of_code(fault.get('Code', ''))}")

    def _read(self, key: str) -> bytes | None:
        try:
            found = self._client.get_object(Bucket=self._bucket, Key=self._key(key))
        except ClientError as error:
            if code_of(error) in _ABSENT:
                return None
            raise
        require_small(found["ContentLength"], str(self.root.join(key)))
        content: bytes = found["Body"].read()
        return content

    def _key(self, key: str) -> str:
        try:
            return self._prefix + relative_path(key)
        except ValueError as error:
            raise BadConfig(f"{self.root}: {error}") from error

    @contextmanager
    def _words(self, key: str, kind: type[TrainerError]) -> Iterator[None]:
        """Turn the errors of boto3 into a sentence, and record whether the server has answered."""
        doing = "can't be written" if kind is OutputNotWritable else "can't be read"
        try:
            yield
            self._answered = True
        except (ClientError, Boto3Error, BotoCoreError) as error:
            self._answered = self._answered or isinstance(error, ClientError)
            # Not "from error": its text can contain the request's headers, with the session token.
            raise kind(f"s3://{self._bucket}/{self._prefix}{key} {doing}: "
                       f"{reason(error, self._client.meta.endpoint_url)}") from None


class _Digest:
    """A file object that keeps only the digest and the size of what is written to it."""

    def __init__(self) -> None:
        self.sha256 = hashlib.sha256()
        self.size = 0

    def write(self, chunk: bytes) -> int:
        self.sha256.update(chunk)
        self.size += len(chunk)
        return len(chunk)


def _is_path(key: str) -> bool:
    try:
        return bool(relative_path(key))
    except ValueError:
        return False


def _client(session: boto3.Session, settings: S3Spec, attempts: int, read_seconds: float) -> Any:
    style: Literal["path", "virtual", "auto"] = "auto"
    if settings.path_style is not None or settings.endpoint_url:
        style = "virtual" if settings.path_style is False else "path"
    return session.client(
        "s3",
        endpoint_url=settings.endpoint_url,
        region_name=settings.region or os.environ.get("AWS_REGION") or session.region_name or "us-east-1",
        config=Config(
            retries={"mode": "standard", "total_max_attempts": attempts},
            connect_timeout=3, read_timeout=read_seconds,
            s3={"addressing_style": style},
            # Not every server knows the newer checksums of AWS.
            request_checksum_calculation="when_required", response_checksum_validation="when_required",
        ),
    )


def _refuse_broken_credentials() -> None:
    """Refuse credentials with a line break: they can't be sent, and HTTP libraries quote them in their errors."""
    for name in _CREDENTIALS:
        value = os.environ.get(name, "")
        if value != value.strip():
            raise BadConfig(f"{name} begins or ends with a space or a line break, which `echo` adds; write it without "
                            "(for a Secret: `kubectl create secret generic --from-literal`)")


def _refuse_credentials_in_address() -> None:
    """Refuse `http://user:password@host`, since messages show the address. (The API's pattern refuses it in a job.)"""
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
        if "@" in urlsplit(os.environ.get(name, "")).netloc:
            raise BadConfig(f"{name} contains a user name or password; write credentials into {_CREDENTIALS[0]} and "
                            f"{_CREDENTIALS[1]} instead")
