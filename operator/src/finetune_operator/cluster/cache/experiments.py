"""The last state of every experiment, and which jobs each one owns."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping

from finetune_operator.cluster.apiserver.decoding import RawObject, trim
from finetune_operator.cluster.cache.attempts import reports_of
from finetune_operator.cluster.cache.children import Children
from finetune_operator.cluster.cache.keys import Key
from finetune_operator.cluster.cache.versions import is_newer
from finetune_operator.names import EXPERIMENT_UID_LABEL
from finetune_operator.observed.attempt import AttemptView
from finetune_operator.observed.experiment import ExperimentView, view_experiment
from finetune_operator.observed.job import JobView, owner_of, view_job


class ExperimentCache:
    """The last state of every experiment. Only the event loop's thread uses it."""

    def __init__(self, jobs: Mapping[Key, RawObject]) -> None:
        """Set up.

        Args:
            jobs: the recorded jobs.
        """
        self._jobs = jobs
        self._experiments: dict[Key, RawObject] = {}
        self._owned: defaultdict[Key, set[Key]] = defaultdict(set)
        self.children = Children(EXPERIMENT_UID_LABEL)
        self.notify: Callable[[Key], None] = lambda key: None
        """Called with the key of an experiment that changed, or one of whose jobs or children did."""

    def record_child(self, experiment: Key, raw: RawObject, deleted: bool) -> None:
        """Record the state of a child that is no FineTuneJob."""
        if self.children.update(experiment, raw, deleted):
            self.notify(experiment)

    def record(self, key: Key, raw: RawObject, deleted: bool) -> None:
        """Record the state of an experiment."""
        held = self._experiments.get(key)
        if deleted:
            if held is None or held["metadata"]["uid"] == raw["metadata"]["uid"]:
                self._experiments.pop(key, None)
        elif is_newer(raw, held):
            self._experiments[key] = trim(raw)
        else:
            return
        self.notify(key)

    def record_job(self, key: Key, before: RawObject | None, after: RawObject | None) -> None:
        """Take in that a job changed, appeared or is gone."""
        for raw in (before, after):
            owner = None if raw is None else owner_of(raw)
            if owner is None:
                continue
            experiment = (key[0], owner.name)
            if after is not None and raw is after:
                self._owned[experiment].add(key)
            else:
                self._owned[experiment].discard(key)
                if not self._owned[experiment]:
                    del self._owned[experiment]
            self.notify(experiment)

    def notify_all(self) -> None:
        """Look at every experiment again."""
        for key in tuple(self._experiments):
            self.notify(key)

    def all(self) -> Iterator[RawObject]:
        """The experiments as they are stored. The thread of /metrics calls it too."""
        yield from tuple(self._experiments.values())

    def stored_status(self, key: Key) -> Mapping[str, object]:
        """An experiment's status as the apiserver has it; empty if there is none."""
        return self._experiments.get(key, {}).get("status") or {}

    def view(self, key: Key) -> ExperimentView | None:
        """An experiment; None if it does not exist."""
        raw = self._experiments.get(key)
        return None if raw is None else view_experiment(raw)

    def jobs_of(self, experiment: ExperimentView) -> dict[str, JobView]:
        """The jobs of this experiment, and not of an earlier one of the same name, by name."""
        owned = (self._jobs[key] for key in self._owned.get((experiment.namespace, experiment.name), ()))
        return {raw["metadata"]["name"]: view_job(raw) for raw in owned
                if (owner := owner_of(raw)) is not None and owner.uid == experiment.uid}

    def reports_of(self, experiment: ExperimentView) -> tuple[AttemptView, ...]:
        """The Jobs of this experiment that write its report, with their pods."""
        own = self.children.owned_by((experiment.namespace, experiment.name), experiment.uid)
        return tuple(reports_of(own, self.children.gone))
