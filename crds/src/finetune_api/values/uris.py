"""Locations of models, data and results: one parsed `Uri` type, and the schemes that each field accepts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field, PlainSerializer, PlainValidator, WithJsonSchema

HUB_ID_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*"
_SHAPE = {
    "s3": "s3://bucket/key",
    "https": "https://host/path",
    "pvc": "pvc://claim/path",
    "hf": "hf://owner/name or hf://owner/name/config",
    "file": "file:///absolute/path or file://./relative/path",
    "hub": "owner/name of a model on the Hugging Face hub",
}
MAX_LENGTH = 1024
_PORT = r"[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]"
HTTPS_PATTERN = rf"^https://[A-Za-z0-9][A-Za-z0-9.-]*(:({_PORT}))?/"
_HEX = "[0-9A-Fa-f]{1,4}"
_IPV6 = "|".join((f"({_HEX}:){{7}}{_HEX}", f"({_HEX}:){{1,7}}:", f":(:{_HEX}){{1,7}}", "::", *(
    f"({_HEX}:){{1,{7 - count}}}(:{_HEX}){{1,{count}}}" for count in range(1, 7))))
ADDRESS_PATTERN = rf"^https?://([A-Za-z0-9._-]+|\[({_IPV6})\])(:({_PORT}))?(/[^\s?#@]*)?$"
ADDRESS_FORM = ("write an address such as https://host:8443/path: a host name, or an IPv6 address in brackets, and a "
                "port from 1 to 65535")
_AUTHORITY = {
    "s3": r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]",
    "https": rf"[A-Za-z0-9][A-Za-z0-9.-]*(?::(?:{_PORT}))?",
    "pvc": r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?",
    "hf": r"[A-Za-z0-9][A-Za-z0-9._-]*",
}
_HF_PATH = r"[A-Za-z0-9][A-Za-z0-9._-]*(/[^/]+)?"


@dataclass(frozen=True)
class Uri:
    """A parsed location.

    Attributes:
        scheme: `s3`, `https`, `pvc`, `hf`, `file`, or `hub` for a bare model id.
        authority: bucket, host, claim or owner; empty for `file`.
        path: what follows, without a leading slash, except for `file`, whose path is kept as written.
    """

    scheme: str
    authority: str
    path: str

    def __str__(self) -> str:
        if self.scheme == "hub":
            return f"{self.authority}/{self.path}"
        if self.scheme == "file":
            return f"file://{self.path}"
        return f"{self.scheme}://{self.authority}" + (f"/{self.path}" if self.path else "")

    @property
    def is_folder(self) -> bool:
        """Whether the location was written with a slash at its end."""
        return self.path.endswith("/")

    def local_path(self) -> Path:
        """The path of a `file://` location.

        Raises:
            ValueError: the location has another scheme.
        """
        if self.scheme != "file":
            raise ValueError(f"{self} is not a file:// location")
        return Path(self.path)

    def join(self, *parts: str) -> Uri:
        """The location of something below this one."""
        return Uri(self.scheme, self.authority, "/".join([self.path.rstrip("/"), *parts]).lstrip(
            "" if self.scheme == "file" else "/"))

    def relative_to_folder(self, folder: Path) -> Uri:
        """A `file://./…` location made absolute against `folder`; every other location unchanged."""
        if self.scheme != "file" or self.path.startswith("/"):
            return self
        end = "/" if self.is_folder else ""
        return Uri("file", "", str((folder / self.path).resolve()) + end)


def parse_uri(value: Any, schemes: tuple[str, ...]) -> Uri:
    """Read a location that must have one of `schemes`.

    Raises:
        ValueError: another scheme, an invalid bucket or claim name, a `..` (except for `file`), a query, a fragment,
            or more than 1024 characters. The message says what to write.
    """
    text = str(value) if isinstance(value, Uri) else value
    choices = "; ".join(_SHAPE[scheme] for scheme in schemes)
    if not isinstance(text, str):
        raise ValueError(f"write a location: {choices}")
    if len(text) > MAX_LENGTH:
        raise ValueError(f"write a location of at most {MAX_LENGTH} characters")
    scheme, separator, rest = text.partition("://")
    if not separator:
        if "hub" in schemes and re.fullmatch(HUB_ID_PATTERN, text):
            owner, _, name = text.partition("/")
            return Uri("hub", owner, name)
        raise ValueError(f"write a location: {choices}")
    if scheme not in schemes:
        raise ValueError(f"{scheme}:// is not possible here; write {choices}")
    if any(character in rest for character in "?#\\\n\r\t"):
        raise ValueError("a location holds no query, fragment, backslash or line break")
    return _file_uri(rest) if scheme == "file" else _server_uri(scheme, rest)


def _file_uri(rest: str) -> Uri:
    if not rest.startswith(("/", "./", "../")):
        raise ValueError(f"write {_SHAPE['file']} (relative means: to the folder of this YAML file)")
    return Uri("file", "", rest)


def _server_uri(scheme: str, rest: str) -> Uri:
    """A location that names a bucket, host, claim or owner before its path."""
    authority, _, path = rest.partition("/")
    if not re.fullmatch(_AUTHORITY[scheme], authority):
        raise ValueError(f"write {_SHAPE[scheme]}: {authority!r} is not possible before the first slash")
    if ".." in PurePosixPath(path).parts or path.startswith("/"):
        raise ValueError("a location holds no '..' and no empty first folder")
    if (scheme == "hf" and not re.fullmatch(_HF_PATH, path)) or (scheme == "https" and not path):
        raise ValueError(f"write {_SHAPE[scheme]}")
    return Uri(scheme, authority, path)


def is_address(text: str) -> bool:
    """Whether a text is the address of a server that every client can parse."""
    return re.fullmatch(ADDRESS_PATTERN, text) is not None


def _check_address(text: str) -> str:
    if not is_address(text):
        raise ValueError(ADDRESS_FORM)
    return text


HttpAddress = Annotated[str, Field(pattern=r"^https?://[^\s?#@]+$", max_length=MAX_LENGTH),
                        AfterValidator(_check_address)]
"""The address of an HTTP server, without query, fragment or password."""


def _pattern(schemes: tuple[str, ...]) -> str:
    named = "|".join(f"{scheme}://.+" for scheme in schemes if scheme != "hub")
    return f"^({HUB_ID_PATTERN}|{named})$" if "hub" in schemes else f"^({named})$"


def _field(*schemes: str) -> Any:
    return Annotated[
        Uri,
        PlainValidator(lambda value: parse_uri(value, schemes)),
        PlainSerializer(str, return_type=str),
        WithJsonSchema({"type": "string", "pattern": _pattern(schemes), "maxLength": MAX_LENGTH}),
    ]


if TYPE_CHECKING:
    ModelUri = Uri
    DatasetUri = Uri
    OutputUri = Uri
else:
    ModelUri = _field("hub", "s3", "pvc", "file")
    DatasetUri = _field("hf", "s3", "https", "pvc", "file")
    OutputUri = _field("s3", "pvc", "file")
