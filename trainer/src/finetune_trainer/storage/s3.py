"""Objects below a prefix of an S3 bucket, on AWS or any server that speaks its protocol."""

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
    """Storage in a bucket. Credentials come from the environment, as AWS' own tools read them; none is ever shown.

    A server that has not answered yet is given up on after about 15 seconds: a wrong address fails before training. One
    that has answered once is waited for: up to 5 attempts, 60 seconds each.
    """

    first_answer_seconds: ClassVar[float] = 6
    """How long to wait for a server that has not answered yet, twice."""

    answer_seconds: ClassVar[float] = 60
    """How long to wait for one that has, five times."""

    def __init__(self, root: Uri, settings: S3Spec | None) -> None:
        """Prepare to reach a bucket; no request is made yet.

        Raises:
            BadConfig: credentials with a line break, or an address that can't be one.
        """
        settings = settings or S3Spec()
        self.root = root
        self._bucket = root.authority
        self._prefix = f"{root.path.strip('/')}/" if root.path.strip("/") else ""
        _refuse_broken_credentials()
        _refuse_credentials_in_address()
        try:
            # A session of its own: the default one keeps the first credentials that it found.
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
            for _ in range(_CONFLICTS):
                try:
                    self._client.put_object(Bucket=self._bucket, Key=self._key(key), Body=content, IfNoneMatch="*")
                    return True
                except ClientError as error:
                    if code_of(error) in ("PreconditionFailed", "412"):
                        # A retry after an answer that was lost meets the object that it wrote itself.
                        return self._read(key) == content
                    if code_of(error) not in ("ConditionalRequestConflict", "409"):
                        raise
                    # Another write is under way, and may yet fail: AWS asks to try again.
        raise OutputNotWritable(f"{self.root.join(key)} can't be written: others write it at the same time, again and "
                                "again")

    def get_bytes(self, key: str) -> bytes | None:
        """A small file's content, or None where it isn't there."""
        with self._words(key, MissingInput):
            return self._read(key)

    def get_start(self, key: str, count: int) -> tuple[bytes, int]:
        """The first bytes of a file, and how many it has."""
        with self._words(key, MissingInput):
            size = int(self._client.head_object(Bucket=self._bucket, Key=self._key(key))["ContentLength"])
            if not size:
                return b"", 0
            answer = self._client.get_object(Bucket=self._bucket, Key=self._key(key), Range=f"bytes=0-{count - 1}")
            content: bytes = answer["Body"].read()
        return content[:count], size

    def get_file(self, key: str, path: Path) -> None:
        """Copy a file to a local path; boto3 writes beside it and renames."""
        with self._words(key, MissingInput):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._client.download_file(self._bucket, self._key(key), str(path), Config=_TRANSFER)
            except OSError as error:
                raise MissingInput(f"{self.root.join(key)} can't be copied to {path.parent}: {error.strerror}"
                                   ) from error

    def digest(self, key: str) -> PublishedFile | None:
        """Digest and size of a file as it is there."""
        with self._words(key, MissingInput):
            digest = _Digest()
            try:
                # boto3 goes on where a connection breaks, and writes in order to what can't be searched.
                self._client.download_fileobj(self._bucket, self._key(key), digest, Config=_TRANSFER)
            except ClientError as error:
                if code_of(error) in _ABSENT:
                    return None
                raise
            return PublishedFile(path=key, sha256=digest.sha256.hexdigest(), size_bytes=digest.size)

    def keys(self, prefix: str) -> list[str]:
        """The keys that start with `prefix`, sorted; those that are no paths, such as consoles' folders, left out."""
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
        """Turn what boto3 raises into a sentence, and note that the server is there once it has answered."""
        doing = "can't be written" if kind is OutputNotWritable else "can't be read"
        try:
            yield
            self._answered = True
        except (ClientError, Boto3Error, BotoCoreError) as error:
            self._answered = self._answered or isinstance(error, ClientError)
            # Not "from error": its text can hold the headers of the request, session token included.
            raise kind(f"s3://{self._bucket}/{self._prefix}{key} {doing}: "
                       f"{reason(error, self._client.meta.endpoint_url)}") from None


class _Digest:
    """A file that keeps nothing of what is written to it but digest and size."""

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
            # Servers other than AWS don't all know the newer checksums.
            request_checksum_calculation="when_required", response_checksum_validation="when_required",
        ),
    )


def _refuse_broken_credentials() -> None:
    """Refuse credentials with a line break: they can't be sent, and HTTP libraries quote them in their complaint."""
    for name in _CREDENTIALS:
        value = os.environ.get(name, "")
        if value != value.strip():
            raise BadConfig(f"{name} has a space or a line break at its start or end, as `echo` adds one; write it "
                            "without (in a Secret: `kubectl create secret generic --from-literal`)")


def _refuse_credentials_in_address() -> None:
    """Refuse `http://user:password@host`: an address is shown in messages. (The job's: by its pattern.)"""
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
        if "@" in urlsplit(os.environ.get(name, "")).netloc:
            raise BadConfig(f"{name} holds a user name or password; write credentials into {_CREDENTIALS[0]} and "
                            f"{_CREDENTIALS[1]} instead")
