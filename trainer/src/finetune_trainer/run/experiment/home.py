"""Where an experiment has its status and its report: `<output>/<namespace>/<experiment>/`."""

from __future__ import annotations

import json

from finetune_api.experiment.reading import Experiment
from finetune_api.experiment.status import FineTuneExperimentStatus
from finetune_api.messages.layout import EXPERIMENT

from finetune_trainer.storage import Storage, as_output, open_storage


class ExperimentHome:
    """The folder of an experiment, below the output of its first job."""

    def __init__(self, experiment: Experiment) -> None:
        """
        Args:
            experiment: the experiment; `file://` locations of its jobs are absolute.

        Raises:
            BadConfig: its output cannot be opened.
        """
        output, metadata = experiment.runs[0].job.spec.output, experiment.resource.metadata
        self._storage: Storage = open_storage(output.uri, output.s3)
        self._folder = f"{metadata.namespace}/{metadata.name}"
        self._document = experiment.document

    def _key(self, name: str) -> str:
        """The key of a file."""
        return f"{self._folder}/{name}"

    def location(self, name: str) -> str:
        """The location of a file."""
        return str(self._storage.root.join(self._key(name)))

    def read(self, name: str) -> bytes | None:
        """The content of a file; None where it does not exist.

        Raises:
            OutputNotWritable: the output cannot be read.
        """
        with as_output():
            return self._storage.get_bytes(self._key(name))

    def write(self, name: str, text: str) -> None:
        """Write a file.

        Raises:
            OutputNotWritable: it cannot be written.
        """
        with as_output():
            self._storage.put_bytes(self._key(name), text.encode())

    def write_status(self, status: FineTuneExperimentStatus) -> None:
        """Write the experiment with its status.

        Raises:
            OutputNotWritable: it cannot be written.
        """
        document = {key: self._document.get(key) for key in ("apiVersion", "kind", "metadata", "spec")}
        document["status"] = status.model_dump(mode="json", exclude_none=True)
        self.write(EXPERIMENT, json.dumps(document, indent=2, ensure_ascii=False))
