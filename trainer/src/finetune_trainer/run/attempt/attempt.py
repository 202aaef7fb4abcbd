"""One attempt, from top to bottom: load, prepare, evaluate, train, evaluate, export, publish."""

from __future__ import annotations

from dataclasses import replace

from finetune_api.messages import Stage

from finetune_trainer.faults import reach
from finetune_trainer.publish.adoption import published_report, published_result, wanted
from finetune_trainer.run.attempt.context import Attempt, AttemptResult, JobOutput
from finetune_trainer.run.attempt.evaluating import evaluate_after, evaluate_before, evaluator_of, start_reference
from finetune_trainer.run.attempt.loading import load_base, read_inputs
from finetune_trainer.run.attempt.optional_steps import OptionalSteps
from finetune_trainer.run.attempt.publishing import (
    export,
    export_merged_model,
    publish,
    run_facts,
    write_documents,
)
from finetune_trainer.run.attempt.training import train
from finetune_trainer.run.checks.inputs import check_shares
from finetune_trainer.storage import probe
from finetune_trainer.training.complete_checkpoints import chat_template_date


def run_attempt(attempt: Attempt) -> AttemptResult:
    """Run one attempt to its published result.

    If several processes train, each loads and prepares for itself. Only rank 0 evaluates and publishes; the others wait
    meanwhile, and end after training.

    Raises:
        TrainerError: the attempt cannot be finished. The class gives the reason and the exit code.
    """
    output = JobOutput.of(attempt.config)
    earlier = published_result(output.storage, output.prefix, wanted(attempt.config))
    if earlier is not None:
        return AttemptResult(earlier, report=published_report(output.storage, output.prefix))
    attempt = _started(attempt, output)

    inputs = read_inputs(attempt)
    reference = start_reference(attempt, output, inputs)
    loaded = load_base(attempt, output, inputs)
    evaluator = evaluator_of(attempt, inputs)
    before = evaluate_before(attempt, output, loaded, evaluator)
    reach("baseline")
    training = train(attempt, output, inputs, loaded, before)
    if not attempt.rank.is_main:
        return AttemptResult(None)

    # The trained model is in the output before any other step can fail.
    files = export(attempt, output, inputs, training.result)
    steps = OptionalSteps(attempt.state.note)
    if training.not_resumed:
        steps.add(f"{training.not_resumed}, so training began at its start")
    evaluations = evaluate_after(attempt, inputs, before, evaluator, training.result.trained_model, steps)
    export_merged_model(attempt, inputs, training.result, files, steps)

    attempt.state.enter(Stage.PUBLISHING)
    if reference:
        with steps.optional("the comparison with the reference model"):
            answered = reference.collect(attempt.stop.check)
            evaluations = replace(evaluations, reference=answered.scores, reference_answers=answered.answers)
            for finding in answered.findings:
                steps.add(finding)
    facts = run_facts(attempt, inputs, loaded, training, evaluations, steps.missing)
    facts = write_documents(attempt, inputs, evaluator, facts, files, steps)
    return publish(attempt, output, inputs, loaded, facts, files)


def _started(attempt: Attempt, output: JobOutput) -> Attempt:
    """Check what can be checked without reading anything, and freeze the date that chat templates write.

    Raises:
        OutputNotWritable: the output cannot be written.
        BadConfig: the processes cannot share the rows of a batch.
    """
    config = attempt.config
    if attempt.rank.is_main:
        probe(output.storage, output.prefix)
    check_shares(config.spec, attempt.rank.world_size)
    date = chat_template_date(output.storage, config, attempt.clock.now().date())
    return replace(attempt, config=config.model_copy(update={"date": date}))
