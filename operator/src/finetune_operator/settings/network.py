"""What the NetworkPolicy of a job's pods allows."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Annotated, Self

from finetune_api.spec.compute import LabelKey, LabelValue
from finetune_api.values.api_model import ApiModel
from pydantic import AfterValidator, Field, model_validator

METADATA = ("169.254.169.254/32", "168.63.129.16/32", "100.100.100.200/32", "fd00:ec2::254/128", "fd20:ce::254/128")
"""Addresses at which clouds give a node's credentials or configuration to every process: most clouds, Azure's host,
Alibaba, and AWS and Google over IPv6."""

LINK_LOCAL = ("169.254.0.0/16",)
"""Addresses that the node itself answers. Some agents give out credentials there, beside METADATA."""

PRIVATE = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")
"""Private addresses, of the cluster and of networks beside it: RFC 1918, RFC 6598 and RFC 4193."""


def _check_cidr(text: str) -> str:
    try:
        ip_network(text)
    except ValueError as error:
        raise ValueError(f"write an address range, such as 10.0.0.0/8 or 2001:db8::/32: {error}") from error
    return text


Cidr = Annotated[str, AfterValidator(_check_cidr)]
"""An address range."""

Port = Annotated[int, Field(ge=1, le=65535)]
"""A TCP port."""


class Peer(ApiModel):
    """The other side of a connection: an address range, or pods selected by their labels and their namespace's."""

    cidr: Cidr | None = None
    """An address range, such as 10.0.0.0/8."""

    namespace_labels: dict[LabelKey, LabelValue] | None = None
    """Labels of the pods' namespaces. With podLabels alone, the pods are in the job's own namespace."""

    pod_labels: dict[LabelKey, LabelValue] | None = None
    """Labels of the pods. With namespaceLabels alone, every pod of these namespaces is selected."""

    @model_validator(mode="after")
    def _has_one_form(self) -> Self:
        by_labels = self.namespace_labels is not None or self.pod_labels is not None
        if (self.cidr is not None) == by_labels:
            raise ValueError("write either cidr, or namespaceLabels and podLabels")
        return self


class Destination(Peer):
    """Where trainers may connect to."""

    ports: tuple[Port, ...] = ()
    """TCP ports; an empty list allows all ports."""


class TrainerNetwork(ApiModel):
    """The NetworkPolicy of every job's pods. It always allows DNS, and traffic between the pods of one job."""

    scrapers: tuple[Peer, ...] = ()
    """Who may read `/progress` and `/metrics` of trainers: the operator and Prometheus."""

    destinations: tuple[Destination, ...] = (
        Destination(cidr="0.0.0.0/0", ports=(80, 443)), Destination(cidr="::/0", ports=(80, 443)))
    """Where trainers may connect to for models, data and S3. A destination by labels allows its pods at any address."""

    allow_metadata: bool = False
    """Whether trainers may connect to the clouds' metadata addresses (METADATA, and all of 169.254.0.0/16), which give
    out the node's credentials. A destination within 169.254.0.0/16 that is not in METADATA allows only itself."""

    allow_private: bool = True
    """Whether a destination also allows the private ranges (PRIVATE) within it. If false, a service at a private
    address needs a destination of its own: a narrower range, or pods by their labels."""

    node_local_dns: tuple[Cidr, ...] = ("169.254.20.10/32", "169.254.10.10/31")
    """Addresses at which nodes answer DNS themselves (NodeLocal DNSCache, AKS LocalDNS): allowed at port 53 only."""

    @model_validator(mode="after")
    def _allows_metadata_only_on_request(self) -> Self:
        ranges = {str(ip_network(one.cidr)) for one in self.destinations if one.cidr}
        if not self.allow_metadata and (named := sorted(ranges & set(METADATA))):
            raise ValueError(f"destinations has {', '.join(named)}, a cloud's metadata address. Remove it, or write "
                             "allowMetadata: true if trainers are meant to have the node's credentials")
        return self

    @property
    def node_addresses(self) -> tuple[str, ...]:
        """Ranges that a wider destination does not allow, because they give out the node's credentials."""
        return () if self.allow_metadata else (*LINK_LOCAL, *METADATA)

    @property
    def excluded(self) -> tuple[str, ...]:
        """Ranges that a wider destination does not allow."""
        return (*self.node_addresses, *(() if self.allow_private else PRIVATE))

    def allows(self, port: int) -> bool:
        """Whether any destination allows a TCP port."""
        return any(not one.ports or port in one.ports for one in self.destinations)
