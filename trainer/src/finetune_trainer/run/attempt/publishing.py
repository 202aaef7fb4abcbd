"""The last steps of an attempt: export, report and publication."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from finetune_api.messages import Outcome, Result, RunFigures, Stage
from finetune_api.messages.layout import ADAPTER, ANSWERS, CHANGED, MERGED, METRICS, MODEL, REPORT, ROW_SCORES
from finetune_api.spec.output import Export
from finetune_api.status import EvaluationScores, Memory

from finetune_trainer.evaluation.evaluate import Evaluator
from finetune_trainer.evaluation.gate import gate_of, judge
from finetune_trainer.faults import reach
from finetune_trainer.hardware.device import environment, package_versions, peak_memory_bytes
from finetune_trainer.progress.state import RunState
from finetune_trainer.publish.export import BaseWeights, export_merged, export_trained, removed_on_failure
from finetune_trainer.publish.publish import Publication, remove_checkpoints
from finetune_trainer.publish.row_scores import row_scores
from finetune_trainer.publish.sample_answers import sample_answers
from finetune_trainer.report.card import render_card
from finetune_trainer.report.code import find_prompt_code
from finetune_trainer.report.facts import RunFacts
from finetune_trainer.report.html import render_report
from finetune_trainer.run.attempt.context import Attempt, AttemptResult, JobOutput
from finetune_trainer.run.attempt.evaluating import Evaluations
from finetune_trainer.run.attempt.loading import Inputs, LoadedBase
from finetune_trainer.run.attempt.optional_steps import OptionalSteps
from finetune_trainer.run.attempt.training import Training
from finetune_trainer.training.result import TrainingResult

_NAMES = {ADAPTER: "the adapter", CHANGED: "the changed parameters", MODEL: "the model"}


@dataclass(frozen=True)
class ResultFiles:
    """The files of the result on this machine, and their way to the output.

    Attributes:
        folder: all files.
        trained: the folder below it with what was trained.
        publication: uploads new files.
    """

    folder: Path
    trained: Path
    publication: Publication

    def upload(self) -> None:
        """Upload the files that are new.

        Raises:
            OutputNotWritable: a file could not be written.
        """
        self.publication.add(self.folder)


def export(attempt: Attempt, output: JobOutput, inputs: Inputs, result: TrainingResult) -> ResultFiles:
    """Write and upload what was trained, before anything else that can fail.

    Raises:
        OutputNotWritable: it could not be uploaded.
    """
    attempt.state.enter(Stage.EXPORTING)
    source, folder = attempt.config.spec.model.source, attempt.scratch / "results"
    files = ResultFiles(folder, folder / result.trained_model.folder,
                        Publication(output.storage, output.prefix, attempt.config))
    export_trained(result.trained_model, str(source), inputs.files.revision if source.scheme == "hub" else None,
                   files.trained)
    files.upload()
    reach("exported")
    attempt.stop.check()
    return files


def export_merged_model(attempt: Attempt, inputs: Inputs, result: TrainingResult, files: ResultFiles,
                        steps: OptionalSteps) -> None:
    """Write and upload the merged model, if the job asks for one. A failure leaves it out."""
    spec = attempt.config.spec
    if Export.MERGED not in spec.output.exports:
        return
    attempt.state.enter(Stage.EXPORTING)
    merged = files.folder / MERGED
    with steps.optional("the merged model"), removed_on_failure(merged):
        base = BaseWeights(inputs.files, spec.method.quantization, inputs.device)
        export_merged(result.trained_model, files.trained, base, inputs.tokenizer, merged)
        files.upload()
    attempt.stop.check()


def run_facts(attempt: Attempt, inputs: Inputs, loaded: LoadedBase, training: Training, evaluations: Evaluations,
              missing: list[str]) -> RunFacts:
    """The facts that report, model card and terminal are made of."""
    state, config, result = attempt.state, attempt.config, training.result
    before = evaluations.before
    gate = judge(gate_of(config.spec), before.scores if before else None, evaluations.after.scores)
    return RunFacts(
        run=config, created=attempt.clock.now(), base_model=str(config.spec.model.source),
        base_revision=inputs.files.revision, base=loaded.facts, counts=inputs.data.counts,
        findings=[*map(str, inputs.data.findings), *training.findings],
        before=before, after=evaluations.after, majority=evaluations.majority, reference=evaluations.reference,
        reference_answers=evaluations.reference_answers,
        steps=attempt.metrics.steps(), step=result.step, total_steps=result.total_steps,
        resumed_from_step=result.resumed_from_step, stopped_early=result.stopped_early,
        micro_batch_size=result.micro_batch_size, trainable_parameters=result.trainable_parameters,
        published_folder=result.trained_model.folder, loading=result.trained_model.load_instructions,
        stage_seconds={str(stage): seconds for stage, seconds in state.stage_seconds.items()},
        peak_memory_bytes=peak_memory_bytes(inputs.device), device=environment(inputs.device)["machine"],
        cost=state.spending().spent, currency=state.price.currency, hourly_rate=state.price.per_hour,
        packages=package_versions(), gate=gate.words if gate else None, remark=result.remark,
        rollouts=result.rollouts, missing=missing, checkpointing=result.checkpointing,
    )


def write_documents(attempt: Attempt, inputs: Inputs, evaluator: Evaluator, facts: RunFacts, files: ResultFiles,
                    steps: OptionalSteps) -> RunFacts:
    """Write and upload model card, metrics, scores of rows, answers and report. A failure leaves that document out.

    Returns:
        The facts, with the code that asks the model.
    """
    with steps.optional("the card's code that asks the model"):
        facts = replace(facts, prompt_code=find_prompt_code(
            inputs.tokenizer, inputs.chat, attempt.config.spec.dataset.system, inputs.data.held_out, evaluator.end_ids,
            evaluator.max_new_tokens))
    with steps.optional("the model card"):
        (files.trained / "README.md").write_text(render_card(facts), encoding="utf-8")
    with steps.optional("the log of steps"):
        (files.folder / METRICS).write_bytes(attempt.metrics.path.read_bytes())
    with steps.optional("the scores of single rows"):
        scores = row_scores(inputs.data.held_out, facts.before, facts.after)
        if scores.after:
            (files.folder / ROW_SCORES).write_text(scores.model_dump_json(), encoding="utf-8")
    with steps.optional("the first answers"):
        answers = sample_answers(inputs.data.held_out, facts)
        if answers.questions:
            (files.folder / ANSWERS).write_text(answers.model_dump_json(exclude_none=True), encoding="utf-8")
    with steps.optional("the report"):
        (files.folder / REPORT).write_text(render_report(facts), encoding="utf-8")
    with steps.optional("the upload of report and model card"):
        files.upload()
    return facts


def publish(attempt: Attempt, output: JobOutput, inputs: Inputs, loaded: LoadedBase, facts: RunFacts,
            files: ResultFiles) -> AttemptResult:
    """Write the manifest, and remove the checkpoints that are not needed any more.

    Raises:
        OutputNotWritable: the manifest could not be written.
    """
    result = files.publication.finish(facts.published_folder, loaded.identity,
                                      (inputs.files.revision, inputs.base_description),
                                      (_result(facts, attempt.state), _figures(facts, attempt.state)), attempt.clock)
    # A later job may resume from the last checkpoint: `runPolicy.resumeFrom`.
    if not facts.stopped_early and attempt.config.spec.run_policy.stop_after is None:
        remove_checkpoints(output.storage, output.prefix)
    attempt.state.enter(Stage.DONE)
    return AttemptResult(result, facts, files.publication.location(REPORT))


def _figures(facts: RunFacts, state: RunState) -> RunFigures:
    return RunFigures(cost=facts.cost, currency=facts.currency, seconds=round(state.trained_seconds(), 3),
                      tokens_per_second=round(facts.tokens_per_second, 1),
                      trainable_parameters=facts.trainable_parameters)


def _result(facts: RunFacts, state: RunState) -> Result:
    name, before = _NAMES[facts.published_folder], facts.before
    message = {
        Outcome.QUALITY_GATE: f"{facts.gate}; {name} is published all the same",
        Outcome.STOPPED_EARLY: f"{facts.stopped_early}; {name} is published as it was at that step",
        Outcome.SUCCEEDED: f"trained {facts.step} steps and published {name}"
                           + (f"; {facts.remark}" if facts.remark else ""),
    }[facts.outcome]
    return Result(
        outcome=facts.outcome, message="; ".join([message, *facts.missing]), step=facts.step,
        total_steps=facts.total_steps, resumed_from_step=facts.resumed_from_step,
        checkpoint_step=state.checkpoint_step,
        evaluation=EvaluationScores(before=before.scores if before else None, after=facts.after.scores,
                                    reference=facts.reference),
        memory=Memory(peak_bytes=facts.peak_memory_bytes, accelerator_bytes=state.accelerator_bytes),
    )
