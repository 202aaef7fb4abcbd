"""The last state of the children of jobs, or of experiments."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator

from finetune_operator.cluster.apiserver.decoding import RawObject, trim
from finetune_operator.cluster.cache.keys import Key
from finetune_operator.cluster.cache.versions import is_newer
from finetune_operator.names import NUMBER_LABELS, REPORT_LABEL


class Children:
    """The last state of every child, by the key of its owner.

    Attributes:
        gone: uids of pods that have been deleted. Their last state shows how they ended, so it stays until their Jobs
            are gone too.
    """

    def __init__(self, uid_label: str) -> None:
        """Set up.

        Args:
            uid_label: the label with the owner's uid.
        """
        self._uid_label = uid_label
        self._children: defaultdict[Key, dict[str, RawObject]] = defaultdict(dict)
        self.gone: set[str] = set()

    def update(self, key: Key, raw: RawObject, deleted: bool) -> bool:
        """Record the state of a child; whether it is news."""
        children, uid = self._children[key], raw["metadata"]["uid"]
        news = True
        if deleted and raw["kind"] == "Pod":
            children[uid] = trim(raw)
            self.gone.add(uid)
        elif deleted:
            children.pop(uid, None)
        elif uid not in self.gone and is_newer(raw, children.get(uid)):
            children[uid] = trim(raw)
        else:
            news = False
        self._forget_orphans(key)
        return news

    def _forget_orphans(self, key: Key) -> None:
        """Forget deleted pods whose Jobs are gone, and keys without any child."""
        children = self._children[key]
        jobs = {self._job_of(child) for child in children.values() if child["kind"] == "Job"}
        for uid in [uid for uid in children if uid in self.gone]:
            if self._job_of(children[uid]) not in jobs:
                del children[uid]
                self.gone.discard(uid)
        if not children:
            del self._children[key]

    def _job_of(self, child: RawObject) -> tuple[str | None, ...]:
        """The owner, and the number of the attempt, check or report that a Job is, or that a pod belongs to."""
        labels = child["metadata"]["labels"]
        return labels[self._uid_label], *(labels.get(label) for label in (*NUMBER_LABELS, REPORT_LABEL))

    def of(self, key: Key) -> Collection[RawObject]:
        """The children of every owner of this name: of the one that exists, and of those before it."""
        return self._children.get(key, {}).values()

    def owned_by(self, key: Key, uid: str) -> list[RawObject]:
        """The children of this owner, and not of an earlier one of the same name."""
        return [child for child in self.of(key) if child["metadata"]["labels"][self._uid_label] == uid]

    def all(self, kind: str) -> Iterator[RawObject]:
        """Every child of a kind."""
        for children in self._children.values():
            yield from (child for child in children.values() if child["kind"] == kind)
