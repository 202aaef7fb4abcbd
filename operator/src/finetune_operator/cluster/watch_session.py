"""The HTTP session of kopf's watches: kopf reads only what could be decoded, and no more of it than is used.

kopf decodes every list and every line of a watch itself, and ends a watch over one that it cannot decode or copy. It
takes a session of aiohttp (`kopf.AiohttpSession`), and a session takes a class of responses: ours decodes first. What
is in a list does not go through kopf, which would start a worker for each of many thousand objects before it watches.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import kopf

from finetune_operator.cluster.client import log_in
from finetune_operator.cluster.decoding import Object, decode, readable
from finetune_operator.telemetry.metrics import UNREADABLE

_log = logging.getLogger(__name__)


def log_in_to_watch(take: Callable[[Object], None], **known: Any) -> kopf.AiohttpSession | None:
    """How kopf reaches the apiserver; None where there is none. To be called in the event loop.

    Args:
        take: gets each object of a list.
        known: what kopf hands to a login handler.
    """
    info = log_in(**known)
    if info is None:
        return None
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=info.as_ssl_context()), headers=info.as_http_headers(),
        proxy=info.proxy_url, trust_env=info.trust_env, response_class=responses(take))
    return kopf.AiohttpSession(aiohttp_session=session, server=info.server, default_namespace=info.default_namespace)


class ReadableResponse(aiohttp.ClientResponse):
    """A response whose lines hold only objects that can be read; what is in its lists is taken elsewhere."""

    take: Callable[[Object], None]

    async def start(self, connection: Any) -> aiohttp.ClientResponse:
        """As in aiohttp; the content's lines are those of a watch."""
        await super().start(connection)
        self.content = _Lines(self.content)  # type: ignore[assignment]
        return self

    async def json(self, **_: Any) -> Any:
        """An answer; a list without its items, of which `take` gets those that can be read.

        Raises:
            json.JSONDecodeError: it is no JSON; kopf takes the text then.
        """
        answer = decode(await self.read())
        if isinstance(answer, dict) and isinstance(answer.get("items"), list):
            kind = str(answer.get("kind")).removesuffix("List")
            items = ({"kind": kind, **item} if isinstance(item, dict) else item for item in answer["items"])
            for item in items:
                if (short := readable(item)) is not None:
                    self.take(short)
            answer["items"] = []
        return answer


def responses(take: Callable[[Object], None]) -> type[ReadableResponse]:
    """The class of responses whose lists go to `take`."""
    return type("TakenResponse", (ReadableResponse,), {"take": staticmethod(take)})


class _Lines:
    """A stream whose pieces are whole lines of a watch, written anew."""

    def __init__(self, stream: aiohttp.StreamReader) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    async def iter_chunked(self, size: int) -> AsyncIterator[bytes]:
        """The lines that can be read, each as a piece of its own."""
        rest = bytearray()
        async for piece in self._stream.iter_chunked(size):
            rest += piece
            end = rest.rfind(b"\n") + 1
            for line in bytes(rest[:end]).split(b"\n"):
                if (written := readable_line(line)) is not None:
                    yield written
            del rest[:end]
        if rest and (written := readable_line(bytes(rest))) is not None:
            yield written


def readable_line(line: bytes) -> bytes | None:
    """A line of a watch with its object as `readable` leaves it; None, told and counted, where it cannot be read."""
    if not line.strip():
        return None
    try:
        event = decode(line)
    except ValueError as error:
        UNREADABLE.inc()
        _log.warning("passed over a line of a watch that is no JSON: %s", error)
        return None
    kind, raw = (event.get("type"), event.get("object")) if isinstance(event, dict) else (None, None)
    if (kind == "BOOKMARK" and isinstance(raw, dict)) or (kind == "ERROR" and isinstance(raw, dict) and "code" in raw):
        return line + b"\n"
    short = readable(raw)
    return None if short is None else json.dumps({"type": kind, "object": short}).encode() + b"\n"
