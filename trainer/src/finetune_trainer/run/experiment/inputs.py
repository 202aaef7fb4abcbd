"""What an experiment's jobs read and where they write, checked before the first one starts."""

from __future__ import annotations

from collections.abc import Sequence

from finetune_api.experiment.expansion import Run

from finetune_trainer.errors import TrainerError
from finetune_trainer.run.local_check import InputFault, check_inputs
from finetune_trainer.storage import open_storage


def input_faults(runs: Sequence[Run], allowed_plugins: Sequence[str], *, quick: bool) -> list[tuple[str, InputFault]]:
    """What is wrong with the jobs' models, rows and outputs, each with the first variant that has it.

    Jobs with the same model and rows are looked at once.

    Args:
        runs: the jobs; their `file://` locations are absolute.
        allowed_plugins: reward plug-ins that the jobs may name.
        quick: leave out what takes long, as `check_inputs` says.
    """
    faults: list[tuple[str, InputFault]] = []
    seen: set[str] = set()
    for run in runs:
        spec = run.job.spec
        try:
            open_storage(spec.output.uri, spec.output.s3)
        except TrainerError as error:
            faults.append((run.variant, InputFault(error.outcome, error.exit_code, str(error))))
        reward = spec.method.reft.model_dump_json() if spec.method.reft else ""
        inputs = f"{spec.model.model_dump_json()} {spec.dataset.model_dump_json()} {reward} {spec.evaluation.metrics}"
        if inputs not in seen:
            seen.add(inputs)
            faults += [(run.variant, fault) for fault in check_inputs(spec, allowed_plugins, quick=quick).faults]
    return faults
