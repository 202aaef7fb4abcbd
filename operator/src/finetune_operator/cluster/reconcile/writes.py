"""What passes over jobs and over experiments both do: create what is owned, replace a status, write an Event."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NoReturn

from finetune_api.values.api_model import GROUP, VERSION

from finetune_operator.cluster.apiserver.client import Client
from finetune_operator.cluster.apiserver.decoding import RawObject
from finetune_operator.cluster.apiserver.paths import object_path
from finetune_operator.decide.conditions import EventRecord
from finetune_operator.errors import ApiError, ChildRefused, NameTaken
from finetune_operator.manifests.child import Manifest, Owner
from finetune_operator.manifests.event import event

_log = logging.getLogger(__name__)


async def create_owned(client: Client, owner_uid: str, manifest: Manifest, taken: str) -> tuple[RawObject, bool]:
    """Create an object. One of this name that already belongs to the same owner is no error.

    Args:
        client: of the apiserver.
        owner_uid: uid of the job or the experiment that owns the object.
        manifest: the object.
        taken: what to say if the name belongs to another owner's object.

    Returns:
        The object as the apiserver has it, and whether it was created now.

    Raises:
        ApiError: the apiserver refused it.
        NameTaken: its name belongs to another owner's object.
    """
    try:
        return await client.create(manifest), True
    except ApiError as error:
        if not error.already_exists:
            raise
    existing = await client.request("GET", object_path(manifest))
    if owner_uid not in {owner["uid"] for owner in existing["metadata"].get("ownerReferences", ())}:
        raise NameTaken(taken)
    return {**existing, "kind": manifest["kind"]}, False


async def replace_status(client: Client, subject: Owner, status: Mapping[str, object]) -> RawObject:
    """Replace the status of a job or an experiment as it was observed: its resource version is a precondition.

    Raises:
        ApiError: the apiserver refused it.
    """
    return await client.replace_status({
        "apiVersion": f"{GROUP}/{VERSION}", "kind": subject.kind, "status": status,
        "metadata": {"namespace": subject.namespace, "name": subject.name, "uid": subject.uid,
                     "resourceVersion": subject.resource_version}})


async def write_event(client: Client, subject: Owner, record: EventRecord, now: datetime,
                      fields: Mapping[str, object] | None = None) -> None:
    """Write an Event. One that cannot be written is logged, with these fields."""
    try:
        await client.create(event(subject, record.kind, record.reason, record.message, record.key, now))
    except ApiError as error:
        if not error.already_exists:
            _log.warning("%s/%s: the Event %s could not be written: %s", subject.namespace, subject.name,
                         record.reason, error, extra=fields)


def raise_first(reported: Sequence[ApiError | NameTaken], refusals: Sequence[ApiError | NameTaken]) -> NoReturn:
    """Raise the first of the refusals of a pass, those that were reported before others.

    Raises:
        ApiError: it refused something else.
        ChildRefused: a quota, a policy or another owner's object stands in the way.
    """
    first = reported[0] if reported else refusals[0]
    if isinstance(first, NameTaken) or first.is_of_namespace:
        raise ChildRefused(str(first)) from first
    raise first
