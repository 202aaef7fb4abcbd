"""The HTTP session of kopf's watches: kopf gets only objects that it can decode, and only the parts that are used.

kopf decodes every list and every line of a watch itself, and ends a watch at an object that it cannot decode or copy.
It accepts an aiohttp session (`kopf.AiohttpSession`), and a session accepts a class of responses: ours decodes first.
The objects of a list do not pass through kopf, which would start a worker for each of many thousand objects before it
watches.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import kopf

from finetune_operator.cluster.apiserver.decoding import RawObject, decode, usable
from finetune_operator.cluster.apiserver.login import log_in
from finetune_operator.telemetry.metrics import UNREADABLE

_log = logging.getLogger(__name__)


def log_in_to_watch(take: Callable[[RawObject], None], **kopf_arguments: Any) -> kopf.AiohttpSession | None:
    """kopf's connection to the apiserver. Call it in the event loop.

    Args:
        take: gets each object of a list.
        kopf_arguments: what kopf passes to a login handler.

    Returns:
        None if there is neither a service account nor a kubeconfig.
    """
    info = log_in(**kopf_arguments)
    if info is None:
        return None
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=info.as_ssl_context()), headers=info.as_http_headers(),
        proxy=info.proxy_url, trust_env=info.trust_env, response_class=responses(take))
    return kopf.AiohttpSession(aiohttp_session=session, server=info.server, default_namespace=info.default_namespace)


class UsableResponse(aiohttp.ClientResponse):
    """A response whose lines hold only usable objects, and whose lists are empty: `take` gets their objects."""

    take: Callable[[RawObject], None]

    async def start(self, connection: Any) -> aiohttp.ClientResponse:
        """As in aiohttp; the content's lines are those of a watch."""
        await super().start(connection)
        self.content = _Lines(self.content)  # type: ignore[assignment]
        return self

    async def json(self, **_: Any) -> Any:
        """The answer; a list without its items. `take` gets the usable items.

        Raises:
            json.JSONDecodeError: the answer is not JSON; kopf uses its text then.
        """
        answer = decode(await self.read())
        if isinstance(answer, dict) and isinstance(answer.get("items"), list):
            kind = str(answer.get("kind")).removesuffix("List")
            items = ({"kind": kind, **item} if isinstance(item, dict) else item for item in answer["items"])
            for item in items:
                if (trimmed := usable(item)) is not None:
                    self.take(trimmed)
            answer["items"] = []
        return answer


def responses(take: Callable[[RawObject], None]) -> type[UsableResponse]:
    """The class of responses whose lists go to `take`."""
    return type("TakenResponse", (UsableResponse,), {"take": staticmethod(take)})


class _Lines:
    """A stream whose pieces are whole lines of a watch, encoded anew."""

    def __init__(self, stream: aiohttp.StreamReader) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    async def iter_chunked(self, size: int) -> AsyncIterator[bytes]:
        """The usable lines, one at a time."""
        rest = bytearray()
        async for piece in self._stream.iter_chunked(size):
            rest += piece
            end = rest.rfind(b"\n") + 1
            for line in bytes(rest[:end]).split(b"\n"):
                if (encoded := usable_line(line)) is not None:
                    yield encoded
            del rest[:end]
        if rest and (encoded := usable_line(bytes(rest))) is not None:
            yield encoded


def usable_line(line: bytes) -> bytes | None:
    """A line of a watch with the part of its object that the operator reads; None if the line is not usable.

    A line that is not usable is logged and counted.
    """
    if not line.strip():
        return None
    try:
        event = decode(line)
    except ValueError as error:
        UNREADABLE.inc()
        _log.warning("ignored a line of a watch that is not JSON: %s", error)
        return None
    kind, raw = (event.get("type"), event.get("object")) if isinstance(event, dict) else (None, None)
    if isinstance(raw, dict) and (kind == "BOOKMARK" or (kind == "ERROR" and "code" in raw)):
        return line + b"\n"
    trimmed = usable(raw)
    return None if trimmed is None else json.dumps({"type": kind, "object": trimmed}).encode() + b"\n"
