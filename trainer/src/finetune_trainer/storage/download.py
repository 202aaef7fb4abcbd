"""A file from the web: over HTTPS alone, and from public addresses unless the administrator allows others.

A trainer stands inside the cluster's network, so a job's URL (or a server that redirects) must not lead it to what only
the inside can reach. Each request's host is resolved once, every address is judged, and the connection goes to a judged
address: a name that means something else a moment later changes nothing. Behind a proxy (HTTPS_PROXY) that the
administrator set, the proxy resolves names and its rules hold.
"""

from __future__ import annotations

import hashlib
import os
import socket
import time
import urllib.request
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import httpx

from finetune_trainer.errors import BadConfig, MissingInput

HOSTS = "FINETUNE_DATASET_HOSTS"
"""Environment variable: hosts that may have any address, separated by commas. Unset on one's own machine: all may."""

_TIMEOUT_SECONDS = 30.0
_MOST_SECONDS = 2 * 3600.0
_MOST_BYTES = 20 * 1024**3
_MOST_REDIRECTS = 5
_TRANSLATED = ip_network("64:ff9b::/96")
_PLATFORM = frozenset({ip_address("168.63.129.16")})  # Azure's own, at an address that looks public.

Resolve = Callable[[str, int], Sequence[str]]


def is_public(address: str) -> bool:
    """Whether an address belongs to the internet: not private, local, shared, or a cloud's own."""
    found = ip_address(address.partition("%")[0])
    if isinstance(found, IPv6Address):
        # An IPv4 address in an IPv6 one's clothes is what it is; a tunnel's end can't be seen from here.
        inner = found.ipv4_mapped or (IPv4Address(int(found) & 0xFFFFFFFF) if found in _TRANSLATED else None)
        if inner is not None:
            return is_public(str(inner))
        if found.sixtofour or found.teredo:
            return False
    return found.is_global and not found.is_multicast and found not in _PLATFORM


def resolve(host: str, port: int) -> list[str]:
    """The addresses of a host.

    Raises:
        OSError: there are none.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class CheckedTransport(httpx.BaseTransport):
    """Sends requests over HTTPS, to addresses that were judged.

    Args:
        hosts: hosts that may have any address; None for all.
        resolve: how a host's addresses are found.
    """

    def __init__(self, hosts: Sequence[str] | None, resolve: Resolve = resolve) -> None:
        self._hosts = hosts
        self._resolve = resolve
        self._direct = httpx.HTTPTransport()
        proxy = urllib.request.getproxies().get("https")
        self._proxy = httpx.HTTPTransport(proxy=proxy) if proxy else None

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request; a redirect's next one is judged anew.

        Raises:
            BadConfig: it is not HTTPS, or leads to an address that isn't public.
            MissingInput: the host has no address.
        """
        url = request.url
        host = url.raw_host.decode("ascii")
        if url.scheme != "https":
            raise BadConfig(f"spec.dataset.source: it leads to {url.scheme}://{url.host}; only https:// is followed")
        if self._proxy and not urllib.request.proxy_bypass(host):
            return self._proxy.handle_request(request)
        failure: httpx.ConnectError | None = None
        for address in self._addresses(host, url.port or 443):
            # The certificate is judged by the name all the same.
            aimed = httpx.Request(request.method, url.copy_with(host=address), headers=request.headers,
                                  extensions={**request.extensions, "sni_hostname": host})
            try:
                return self._direct.handle_request(aimed)
            except httpx.ConnectError as error:
                failure = error
        assert failure is not None
        raise failure

    def _addresses(self, host: str, port: int) -> Sequence[str]:
        try:
            addresses = self._resolve(host, port)
        except (OSError, UnicodeError) as error:
            raise MissingInput(f"spec.dataset.source: {host} has no address: is its name right, and is there a network?"
                               ) from error
        if self._hosts is None or host in self._hosts:
            return addresses
        for address in addresses:
            if not is_public(address):
                raise BadConfig(f"spec.dataset.source: {host} has the address {address}, which is not a public one; "
                                "put the data on s3:// or pvc://, or have the host added to the operator's settings "
                                "(allowed.datasetHosts)")
        return addresses

    def close(self) -> None:
        """Close its connections."""
        for transport in filter(None, (self._direct, self._proxy)):
            transport.close()


def download(url: str, scratch: Path, transport: httpx.BaseTransport | None = None) -> Path:
    """A file from the web, streamed to disk.

    Args:
        url: where it is, with https://.
        scratch: the folder that it is put below.
        transport: what sends the requests; None for one that follows this machine's environment.

    Raises:
        MissingInput: the server can't be reached, or doesn't give the file, whole and in time.
        BadConfig: it leads to where it may not.
    """
    if transport is None:
        named = os.environ.get(HOSTS)
        transport = CheckedTransport(None if named is None else named.lower().split(","))
    name = PurePosixPath(urlsplit(url).path).name
    path = scratch / "inputs" / hashlib.sha256(url.encode()).hexdigest()[:16] / (name or "data")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    try:
        with httpx.Client(transport=transport, timeout=_TIMEOUT_SECONDS, follow_redirects=True,
                          max_redirects=_MOST_REDIRECTS) as client, client.stream("GET", url) as response:
            response.raise_for_status()
            _save(response, partial, url)
    except httpx.HTTPStatusError as error:
        raise MissingInput(f"{url}: the server answered {error.response.status_code}") from error
    except httpx.TooManyRedirects as error:
        raise MissingInput(f"{url}: the server redirects more than {_MOST_REDIRECTS} times") from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise MissingInput(f"{url}: can't be fetched ({type(error).__name__}); is the address right, and is there a "
                           "network?") from error
    partial.replace(path)
    return path


def _save(response: httpx.Response, path: Path, url: str) -> None:
    size, began = 0, time.monotonic()
    with path.open("wb") as file:
        for chunk in response.iter_bytes(1 << 20):
            size += len(chunk)
            if size > _MOST_BYTES:
                raise MissingInput(f"{url}: larger than {_MOST_BYTES >> 30} GiB; put it on s3:// instead")
            if time.monotonic() - began > _MOST_SECONDS:
                raise MissingInput(f"{url}: not whole after {_MOST_SECONDS / 3600:g} hours; put it on s3:// instead")
            file.write(chunk)
