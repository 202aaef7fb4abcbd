"""The evaluations of an attempt: before training, after training, and what they are compared with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from finetune_api.messages import Stage
from finetune_api.messages.layout import BASELINE, CHECKPOINTS, REFERENCE_ANSWERS

from finetune_trainer.data.answers.row_findings import schema_validator
from finetune_trainer.evaluation.evaluate import NOTHING, Evaluation, Evaluator
from finetune_trainer.evaluation.reference.asking import Reference
from finetune_trainer.evaluation.scores import Scores, majority_scores
from finetune_trainer.run.attempt.context import Attempt, JobOutput
from finetune_trainer.run.attempt.loading import Inputs, LoadedBase
from finetune_trainer.run.attempt.optional_steps import OptionalSteps
from finetune_trainer.trained_model import TrainedModel


@dataclass(frozen=True)
class Evaluations:
    """Every evaluation of a run, on the same held-out rows.

    Attributes:
        before: the evaluation before training, or None.
        after: the evaluation after training.
        majority: the scores of always giving the most common value of each field, or None.
        reference: the scores of the reference model, or None.
        reference_answers: its answers, by the number of the row.
    """

    before: Evaluation | None
    after: Evaluation
    majority: Scores | None
    reference: Scores | None = None
    reference_answers: Mapping[int, str] = field(default_factory=dict)


def start_reference(attempt: Attempt, output: JobOutput, inputs: Inputs) -> Reference | None:
    """Start to ask the reference model, if the job names one. It answers while this model is loaded and trained."""
    spec = attempt.config.spec
    if spec.evaluation.reference is None or not attempt.rank.is_main:
        return None
    store = (output.storage, f"{attempt.config.namespace}/{REFERENCE_ANSWERS}")
    reference = Reference(spec, inputs.data.held_out, store, attempt.clock, lambda: attempt.stop.is_set).start()
    if reference.adopted:
        attempt.state.note(f"{reference.adopted} answers of the reference model are adopted: an earlier attempt or "
                           "another job with the same output asked the same")
    return reference


def evaluator_of(attempt: Attempt, inputs: Inputs) -> Evaluator:
    """The evaluator for both sides of training."""
    return Evaluator(attempt.config.spec, inputs.data.held_out, inputs.tokenizer, inputs.chat, inputs.device,
                     attempt.clock, attempt.stop.check, attempt.state.answers_done, inputs.judge)


def evaluate_before(attempt: Attempt, output: JobOutput, loaded: LoadedBase, evaluator: Evaluator) -> Evaluation | None:
    """Evaluate the base model on rank 0, if the job asks for it.

    An earlier attempt's evaluation counts if it was of the same model on the same rows.
    """
    if not attempt.config.spec.evaluation.baseline:
        return None
    attempt.state.enter(Stage.EVALUATING_BEFORE)
    if not attempt.rank.is_main:
        return None
    storage, key = output.storage, f"{output.prefix}/{CHECKPOINTS}/{BASELINE}"
    identity = loaded.identity
    same = {"data": identity.data_hash, "base": identity.base_hash, "spec": identity.spec_hash}
    content = storage.get_bytes(key)
    # A file that is not ours can hold anything.
    with suppress(ValueError, LookupError, TypeError, AttributeError, RecursionError):
        saved = json.loads(content or b"{}")
        if saved.get("identity") == same:
            return Evaluation.from_json(saved["evaluation"])
    evaluation = evaluator.evaluate(loaded.model)
    storage.put_bytes(key, json.dumps({"identity": same, "evaluation": evaluation.to_json()}).encode())
    return evaluation


def evaluate_after(attempt: Attempt, inputs: Inputs, before: Evaluation | None, evaluator: Evaluator,
                   trained: TrainedModel, steps: OptionalSteps) -> Evaluations:
    """Evaluate the trained model, and score the most common answer. A failure leaves that part out."""
    attempt.state.enter(Stage.EVALUATING_AFTER)
    spec, after, majority = attempt.config.spec, NOTHING, None
    with steps.optional("the evaluation after training"):
        after = evaluator.evaluate(trained.model)
    with steps.optional("the comparison with the most common answer"):
        majority = majority_scores(inputs.data.train_answers, [row.example.answer for row in inputs.data.held_out],
                                   spec.evaluation.metrics or (),
                                   schema_validator(spec.dataset.answer_format.json_schema))
    attempt.stop.check()
    return Evaluations(before, after, majority)
