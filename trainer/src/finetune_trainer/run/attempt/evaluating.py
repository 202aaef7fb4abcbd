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
from finetune_trainer.training.complete_checkpoints import resume_source


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

    The evaluation of an earlier attempt, or of the job that this one resumes from, counts if it was of the same model
    on the same rows.
    """
    if not attempt.config.spec.evaluation.baseline:
        return None
    attempt.state.enter(Stage.EVALUATING_BEFORE)
    if not attempt.rank.is_main:
        return None
    storage, key = output.storage, f"{output.prefix}/{CHECKPOINTS}/{BASELINE}"
    identity, earlier = loaded.identity, resume_source(attempt.config).earlier
    same = {"data": identity.data_hash, "base": identity.base_hash, "spec": identity.spec_hash}
    if (evaluation := _saved_evaluation(storage.get_bytes(key), same)) is not None:
        return evaluation
    saved = (_saved_evaluation(storage.get_bytes(one), same) for one in (storage.keys(earlier) if earlier else ())
             if one.endswith(f"/{CHECKPOINTS}/{BASELINE}"))
    evaluation = next(filter(None, saved), None) or evaluator.evaluate(loaded.model)
    storage.put_bytes(key, json.dumps({"identity": same, "evaluation": evaluation.to_json()}).encode())
    return evaluation


def _saved_evaluation(content: bytes | None, identity: Mapping[str, str]) -> Evaluation | None:
    """An evaluation that was saved; None if there is none, or of another model or other rows."""
    # A file that is not ours can hold anything.
    with suppress(ValueError, LookupError, TypeError, AttributeError, RecursionError):
        saved = json.loads(content or b"{}")
        if saved.get("identity") == identity:
            return Evaluation.from_json(saved["evaluation"])
    return None


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
