"""Download a file from the web: only over HTTPS, and only from public addresses unless the administrator allows others.

A trainer runs inside the cluster's network, so a job's URL (or a redirect) must not lead it to servers that only the
inside can reach. The host of each request is resolved once, every address is checked, and the connection goes to a
checked address: a name that resolves differently later changes nothing. If the administrator set a proxy (HTTPS_PROXY),
the proxy resolves names and its rules apply.
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
"""Environment variable: hosts that may have any address, separated by commas. Unset (`finetune run`): all hosts may."""

_TIMEOUT_SECONDS = 30.0
_MAX_SECONDS = 2 * 3600.0
_MAX_BYTES = 20 * 1024**3
_MAX_REDIRECTS = 5
_TRANSLATED = ip_network("64:ff9b::/96")
_PLATFORM = frozenset({ip_address("168.63.129.16")})  # Azure's platform service, at an address that looks public.

Resolve = Callable[[str, int], Sequence[str]]


def is_public(address: str) -> bool:
    """Whether an address belongs to the public internet: not private, local, shared, or of a cloud platform."""
    found = ip_address(address.partition("%")[0])
    if isinstance(found, IPv6Address):
        # An IPv4 address within an IPv6 address is judged as IPv4. The end of a tunnel is unknown, so it is refused.
        inner = found.ipv4_mapped or (IPv4Address(int(found) & 0xFFFFFFFF) if found in _TRANSLATED else None)
        if inner is not None:
            return is_public(str(inner))
        if found.sixtofour or found.teredo:
            return False
    return found.is_global and not found.is_multicast and found not in _PLATFORM


def resolve(host: str, port: int) -> list[str]:
    """The IP addresses of a host.

    Raises:
        OSError: it has none.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class CheckedTransport(httpx.BaseTransport):
    """Sends requests over HTTPS, only to checked addresses.

    Args:
        hosts: hosts that may have any address; None for all hosts.
        resolve: finds the addresses of a host.
    """

    def __init__(self, hosts: Sequence[str] | None, resolve: Resolve = resolve) -> None:
        self._hosts = hosts
        self._resolve = resolve
        self._direct = httpx.HTTPTransport()
        proxy = urllib.request.getproxies().get("https")
        self._proxy = httpx.HTTPTransport(proxy=proxy) if proxy else None

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request. The request after a redirect is checked again.

        Raises:
            BadConfig: the request is not HTTPS, or the host has an address that is not public.
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
            # The certificate is still checked for the name.
            aimed = httpx.Request(request.method, url.copy_with(host=address), headers=request.headers,
                                  extensions={**request.extensions, "sni_hostname": host})
            try:
                return self._direct.handle_request(aimed)
            except httpx.ConnectError as error:
                failure = error
        raise failure or httpx.ConnectError(f"{host} has no address")

    def _addresses(self, host: str, port: int) -> Sequence[str]:
        try:
            addresses = self._resolve(host, port)
        except (OSError, UnicodeError) as error:
            raise MissingInput(f"spec.dataset.source: {host} has no address; check the name of the host and the network"
                               ) from error
        if self._hosts is None or host in self._hosts:
            return addresses
        for address in addresses:
            if not is_public(address):
                raise BadConfig(f"spec.dataset.source: {host} has the address {address}, which is not public; "
                                "put the data on s3:// or pvc://, or ask the administrator to add the host to the "
                                "operator's settings (allowed.datasetHosts)")
        return addresses

    def close(self) -> None:
        """Close the connections."""
        for transport in filter(None, (self._direct, self._proxy)):
            transport.close()


def download(url: str, scratch: Path, transport: httpx.BaseTransport | None = None) -> Path:
    """Download a file from the web to disk.

    Args:
        url: its address, with https://.
        scratch: the folder for downloaded files.
        transport: sends the requests; None for the transport that the environment describes.

    Raises:
        MissingInput: the server can't be reached, or does not send the whole file in time.
        BadConfig: the address is not allowed.
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
                          max_redirects=_MAX_REDIRECTS) as client, client.stream("GET", url) as response:
            response.raise_for_status()
            _save(response, partial, url)
    except httpx.HTTPStatusError as error:
        raise MissingInput(f"{url}: the server answered {error.response.status_code}; check the address") from error
    except httpx.TooManyRedirects as error:
        raise MissingInput(f"{url}: the server redirects more than {_MAX_REDIRECTS} times; write the final "
                           "address") from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise MissingInput(f"{url}: can't be downloaded ({type(error).__name__}); check the address and the "
                           "network") from error
    partial.replace(path)
    return path


def _save(response: httpx.Response, path: Path, url: str) -> None:
    size, began = 0, time.monotonic()
    with path.open("wb") as file:
        for chunk in response.iter_bytes(1 << 20):
            size += len(chunk)
            if size > _MAX_BYTES:
                raise MissingInput(f"{url}: the file is larger than {_MAX_BYTES >> 30} GiB; put it on s3:// instead")
            if time.monotonic() - began > _MAX_SECONDS:
                raise MissingInput(f"{url}: the download takes more than {_MAX_SECONDS / 3600:g} hours; put the file "
                                   "on s3:// instead")
            file.write(chunk)
