"""The micro-batches that one process trains on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from finetune_trainer.data.batches.collate import collate
from finetune_trainer.data.batches.steps import Layout, lay_out, step_rows
from finetune_trainer.training.training_run import TrainingRun


class StepLoader:
    """Yields this process's micro-batches of the steps after `start`; they depend only on the step and the seed.

    Args:
        run: the training run.
        layout: how rows form micro-batches.
        steps: the steps of the whole run.
        start: the steps that are done.
    """

    def __init__(self, run: TrainingRun, layout: Layout, steps: int, start: int) -> None:
        training = run.spec.training
        self._rows = run.data.train
        self._lengths = [len(row) for row in self._rows]
        self._layout = layout
        self._pad_id = int(run.tokenizer.pad_token_id)
        self._count = steps
        self._start = start
        self._plan = list(step_rows(len(self._rows), training.batch_size, training.seed, steps))
        self._batch_size = training.batch_size
        self._rank = run.world.rank
        self._by_rows = run.by_rows

    def __len__(self) -> int:
        """The number of this process's micro-batches in the whole run, from which the trainer derives its steps."""
        return self._count * self._layout.micro_batches(self._batch_size)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for indices in self._plan[self._start:]:
            for lines in lay_out(indices, self._lengths, self._layout)[self._rank::self._layout.processes]:
                yield collate(lines, self._rows, self._pad_id, self._by_rows)

    def tokens(self, step: int) -> int:
        """The tokens of a step, from 1, over all processes, without padding."""
        return sum(self._lengths[index] for index in self._plan[step - 1])

    def epoch(self, step: int) -> float:
        """The passes over the data that are done after a step."""
        return step * self._batch_size / len(self._rows)
