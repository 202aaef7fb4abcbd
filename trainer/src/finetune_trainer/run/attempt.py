"""One attempt, top to bottom: load, prepare, evaluate, train, evaluate, export, publish."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

from finetune_api.messages import Outcome, Result, RunConfig, Stage
from finetune_api.messages.layout import (
    ADAPTER,
    BASELINE,
    CHANGED,
    CHECKPOINTS,
    MERGED,
    METRICS,
    MODEL,
    REFERENCE,
    REPORT,
    job_prefix,
)
from finetune_api.spec.method import Engine
from finetune_api.spec.output import Export
from finetune_api.spec.policy import PreflightPolicy
from finetune_api.status import EvaluationScores, Memory
from finetune_api.values.money import cost_of
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from finetune_trainer.clock import Clock
from finetune_trainer.data.answers.answer_checks import schema_validator
from finetune_trainer.data.rows import PreparedData
from finetune_trainer.distributed.rank import RankInfo
from finetune_trainer.distributed.rendezvous import connect
from finetune_trainer.engines import unsloth
from finetune_trainer.errors import TrainerError
from finetune_trainer.evaluation.evaluate import NOTHING, Evaluation, Evaluator
from finetune_trainer.evaluation.gate import judge as judge_gate
from finetune_trainer.evaluation.reference.asking import Reference, ReferenceResult
from finetune_trainer.evaluation.scores import Scores, majority_scores
from finetune_trainer.faults import reach
from finetune_trainer.hardware.device import (
    Device,
    choose_device,
    environment,
    make_deterministic,
    package_versions,
    peak_memory_bytes,
)
from finetune_trainer.methods import METHODS
from finetune_trainer.model.files.content import description_digest
from finetune_trainer.model.files.find import ModelFiles, find_model
from finetune_trainer.model.loading.base import open_base
from finetune_trainer.model.loading.load import describe, load_model, weights_digest
from finetune_trainer.progress.limits import LimitsFile
from finetune_trainer.progress.metrics_log import MetricsLog
from finetune_trainer.progress.state import RunState
from finetune_trainer.progress.stopping import StopFlag
from finetune_trainer.publish.adoption import published_result, wanted
from finetune_trainer.publish.export import export_merged, export_trained, removed_on_failure
from finetune_trainer.publish.publish import Publication, remove_checkpoints
from finetune_trainer.report.card import render_card
from finetune_trainer.report.code import find_asking
from finetune_trainer.report.facts import RunFacts
from finetune_trainer.report.html import render_report
from finetune_trainer.run.beside import Beside
from finetune_trainer.run.expectations import expect
from finetune_trainer.run.inputs import check_embeddings, check_positions, check_shares, open_chat, read_rows
from finetune_trainer.run.rehearsal import rehearse
from finetune_trainer.storage import BackgroundUploader, Storage, open_storage, probe
from finetune_trainer.training.checkpoints import CheckpointStore
from finetune_trainer.training.complete import Identity, frozen_date, going_on, require_earlier
from finetune_trainer.training.packing import settle_packing
from finetune_trainer.training.result import TrainingResult
from finetune_trainer.training.training_run import TrainingRun

_NAMES = {ADAPTER: "the adapter", CHANGED: "what was changed", MODEL: "the model"}


@dataclass(frozen=True)
class Attempt:
    """What one attempt works with.

    Attributes:
        config: the run configuration.
        limits: what it may cost.
        state: where it reports.
        metrics: the log of steps; one of the state's observers.
        stop: whether somebody asked to stop.
        scratch: a folder of its own.
        clock: the time.
        rank: the rank of this process.
        rendezvous_seconds: how long to wait for the others at the start.
    """

    config: RunConfig
    limits: LimitsFile
    state: RunState
    metrics: MetricsLog
    stop: StopFlag
    scratch: Path
    clock: Clock
    rank: RankInfo
    rendezvous_seconds: float


@dataclass(frozen=True)
class Finished:
    """A published result; the facts behind it are None where another run had published it before.

    Both are None in a process that only helped to train: the first one publishes.
    """

    result: Result | None
    facts: RunFacts | None


def run_attempt(attempt: Attempt) -> Finished:
    """Run one attempt to its published result.

    Where several processes train, each loads and prepares for itself; the first evaluates, while the others wait, and
    they are done once training is.

    Raises:
        TrainerError: it can't be finished; the class says why, and so the exit code.
    """
    config, spec, state, stop = attempt.config, attempt.config.spec, attempt.state, attempt.stop
    prefix = job_prefix(config.namespace, config.name, config.uid)
    storage = open_storage(spec.output.uri, spec.output.s3)
    earlier = published_result(storage, prefix, wanted(config))
    if earlier is not None:
        return Finished(earlier, None)
    if attempt.rank.is_main:
        probe(storage, prefix)
    check_shares(spec, attempt.rank.world_size)
    config = config.model_copy(update={"date": frozen_date(storage, config, attempt.clock.now().date())})
    attempt = replace(attempt, config=config)

    state.enter(Stage.LOADING)
    world = connect(os.environ, attempt.rank, attempt.rendezvous_seconds, stop.check, attempt.clock)
    device = choose_device(spec.training.precision, packing=spec.training.packing)
    make_deterministic(device)
    files = find_model(spec.model, spec.output.s3, attempt.scratch, state.note)
    open_base(files.folder, files.name)  # A tokenizer reads the same configuration, and would be blamed for it.
    tokenizer, chat = open_chat(spec, files, config.date)
    stop.check()

    state.enter(Stage.PREPARING_DATA)
    data, judge = read_rows(config, files, chat, attempt.scratch, state.note)
    state.note(f"{data.counts['train']} rows to learn from, {data.counts['heldOut']} held out")
    if config.accelerator.memory_bytes and spec.run_policy.preflight is PreflightPolicy.REQUIRED:
        expect(config, json.loads((files.folder / "config.json").read_text("utf-8")), [len(row) for row in data.train],
               attempt.rank.world_size)
    stop.check()
    data_hash, described = data.digest(), description_digest(spec.model, spec.output.s3)
    reference = _ask_reference(attempt, storage, prefix, data, data_hash) if attempt.rank.is_main else None

    state.enter(Stage.LOADING)

    def load() -> PreTrainedModel:
        return (load_model(files, spec.method.quantization, device) if spec.engine is Engine.NATIVE
                else unsloth.load_model(files, spec, device))

    model = load()
    check_embeddings(model, data, tokenizer, files.name)
    check_positions(spec, model, data, files.name)
    identity = Identity(config.spec_hash, data_hash, weights_digest(model),
                        {**environment(device), "number of processes": str(world.size)})
    require_earlier(storage, config, data_hash, identity.base_hash)
    base = describe(model)
    evaluator = Evaluator(spec, data.held_out, tokenizer, chat, device, attempt.clock, stop.check, state.answers_done,
                          judge)
    stop.check()

    before = None
    if spec.evaluation.baseline:
        state.enter(Stage.EVALUATING_BEFORE)
        if world.is_main:
            before = _baseline(storage, prefix, identity, lambda: evaluator.evaluate(model))
    reach("baseline")

    with BackgroundUploader() as uploader, world.training(device, stop.check):
        state.enter(Stage.WARM_UP if spec.method.reft else Stage.TRAINING)
        settled, findings = settle_packing(spec, model, data.train, world, state.note)
        with _told_if_hopeless(attempt, files, data, tokenizer):
            trained = METHODS[spec.method.type](TrainingRun(
                spec=settled, model=model, tokenizer=tokenizer, data=data, device=device, identity=identity,
                checkpoints=CheckpointStore(storage, prefix, config.attempt, uploader, state.note, going_on(config)),
                uploader=uploader, state=state, metrics=attempt.metrics, limits=attempt.limits,
                reserve=_reserve(before, state), stop=stop, scratch=attempt.scratch, clock=attempt.clock, world=world,
                reload=load, judge=judge,
            ))
        uploader.drain()
    if trained.stopped_early:
        state.note(trained.stopped_early)
    reach("trained")
    if not world.is_main:
        return Finished(None, None)

    # What was learnt is in the output before anything else is done with it.
    state.enter(Stage.EXPORTING)
    results, publication = attempt.scratch / "results", Publication(storage, prefix, config)
    published = results / trained.trained_model.folder
    export_trained(trained.trained_model, str(spec.model.source),
                   files.revision if spec.model.source.scheme == "hub" else None, published)
    publication.add(results)
    reach("exported")
    stop.check()

    beside = Beside(state.note)
    after, majority, compared = NOTHING, None, ReferenceResult(None)
    state.enter(Stage.EVALUATING_AFTER)
    with beside.optional("the evaluation after training"):
        after = evaluator.evaluate(trained.trained_model.model)
    with beside.optional("the comparison with the commonest answer"):
        majority = majority_scores(data.train_answers, [row.example.answer for row in data.held_out],
                                   spec.evaluation.metrics or (),
                                   schema_validator(spec.dataset.answer_format.json_schema))
    stop.check()

    if Export.MERGED in spec.output.exports:
        state.enter(Stage.EXPORTING)
        with beside.optional("the merged model"), removed_on_failure(results / MERGED):
            export_merged(trained.trained_model, published, files, spec.method.quantization, device, tokenizer,
                          results / MERGED)
            publication.add(results)
        stop.check()

    state.enter(Stage.PUBLISHING)
    if reference:
        with beside.optional("the comparison with the reference model"):
            compared = reference.collect(stop.check)
        for finding in compared.findings:
            beside.add(finding)
    facts = _facts(attempt, device, base, files.revision, data.counts, [*map(str, data.findings), *findings], before,
                   after, majority, compared.scores, trained, beside.missing)
    with beside.optional("the card's code that asks the model"):
        facts = replace(facts, asking=find_asking(tokenizer, chat, spec.dataset.system, data.held_out,
                                                  evaluator.end_ids, evaluator.max_new_tokens))
    with beside.optional("the model card"):
        (published / "README.md").write_text(render_card(facts), encoding="utf-8")
    with beside.optional("the log of steps"):
        (results / METRICS).write_bytes(attempt.metrics.path.read_bytes())
    with beside.optional("the report"):
        (results / REPORT).write_text(render_report(facts), encoding="utf-8")
    with beside.optional("the upload of report and model card"):
        publication.add(results)
    result = publication.finish(trained.trained_model.folder, identity, (files.revision, described),
                                _result(facts, trained, state), attempt.clock)
    if not trained.stopped_early:  # Else `runPolicy.resumeFrom` may go on from the last one.
        remove_checkpoints(storage, prefix)
    state.enter(Stage.DONE)
    return Finished(result, facts)


@contextmanager
def _told_if_hopeless(attempt: Attempt, files: ModelFiles, data: PreparedData, tokenizer: PreTrainedTokenizerBase
                      ) -> Iterator[None]:
    """Where training raises what nobody foresaw: ask a small copy of the model whether it would again.

    Preflight asks before; a run without one would be tried again on GPUs, and say nothing that helps.

    Raises:
        BadConfig: the model can't be trained by the job's method.
    """
    try:
        yield
    except (TrainerError, OSError, MemoryError):
        raise
    except Exception as error:
        if attempt.rank.world_size == 1 and type(error).__name__ not in ("OutOfMemoryError", "AcceleratorError"):
            rehearse(attempt.config, open_base(files.folder, files.name), files.folder, data, tokenizer,
                     attempt.scratch)
        raise


def _ask_reference(attempt: Attempt, storage: Storage, prefix: str, data: PreparedData, data_hash: str
                   ) -> Reference | None:
    """Begin to ask the reference model, where the job names one: it answers while this one is loaded and trained."""
    spec = attempt.config.spec
    if spec.evaluation.reference is None:
        return None
    return Reference(spec, data.held_out, (storage, f"{prefix}/{CHECKPOINTS}/{REFERENCE}"), data_hash, attempt.clock,
                     lambda: attempt.stop.is_set).start()


def _baseline(storage: Storage, prefix: str, identity: Identity, evaluate: Callable[[], Evaluation]) -> Evaluation:
    """The evaluation before training: an earlier attempt's, where it judged the same model on the same rows."""
    key = f"{prefix}/{CHECKPOINTS}/{BASELINE}"
    same = {"data": identity.data_hash, "base": identity.base_hash, "spec": identity.spec_hash}
    content = storage.get_bytes(key)
    with suppress(ValueError, LookupError, TypeError, AttributeError, RecursionError):  # None of ours.
        saved = json.loads(content or b"{}")
        if saved.get("identity") == same:
            return Evaluation.from_json(saved["evaluation"])
    evaluation = evaluate()
    storage.put_bytes(key, json.dumps({"identity": same, "evaluation": evaluation.to_json()}).encode())
    return evaluation


def _reserve(before: Evaluation | None, state: RunState) -> Decimal:
    """Money to keep for what comes after training: an evaluation like the one before, and as long again to publish."""
    return cost_of(timedelta(seconds=2 * before.seconds), state.price) if before else Decimal(0)


def _facts(attempt: Attempt, device: Device, base: dict[str, object], revision: str, counts: object,
           findings: list[str], before: Evaluation | None, after: Evaluation, majority: Scores | None,
           reference: Scores | None, trained: TrainingResult, missing: list[str]) -> RunFacts:
    state = attempt.state
    verdict = judge_gate(attempt.config.spec.evaluation.gate, before.scores if before else None, after.scores)
    return RunFacts(
        run=attempt.config, created=attempt.clock.now(), base_model=str(attempt.config.spec.model.source),
        base_revision=revision, base=base, counts=counts, findings=findings,  # type: ignore[arg-type]
        before=before, after=after, majority=majority, reference=reference, steps=attempt.metrics.steps(),
        step=trained.step, total_steps=trained.total_steps, resumed_from_step=trained.resumed_from_step,
        stopped_early=trained.stopped_early, micro_batch_size=trained.micro_batch_size,
        trainable_parameters=trained.trainable_parameters, published_folder=trained.trained_model.folder,
        loading=trained.trained_model.load_instructions,
        stage_seconds={str(stage): seconds for stage, seconds in state.stage_seconds.items()},
        peak_memory_bytes=peak_memory_bytes(device), device=environment(device)["machine"],
        cost=state.spending().spent, currency=state.price.currency, hourly_rate=state.price.per_hour,
        packages=package_versions(), gate=verdict.words if verdict else None, remark=trained.remark,
        rollouts=trained.rollouts, missing=missing,
    )


def _result(facts: RunFacts, trained: TrainingResult, state: RunState) -> Result:
    before = facts.before
    outcome = facts.outcome
    words = {
        Outcome.QUALITY_GATE: f"{facts.gate}; {_NAMES[trained.trained_model.folder]} is published all the same",
        Outcome.STOPPED_EARLY: f"{trained.stopped_early}; what was learnt until then is published",
        Outcome.SUCCEEDED: f"trained {trained.step} steps and published {_NAMES[trained.trained_model.folder]}"
                           + (f"; {trained.remark}" if trained.remark else ""),
    }[outcome]
    return Result(
        outcome=outcome, message="; ".join([words, *facts.missing]), step=trained.step, total_steps=trained.total_steps,
        resumed_from_step=trained.resumed_from_step, checkpoint_step=state.checkpoint_step,
        evaluation=EvaluationScores(before=before.scores if before else None, after=facts.after.scores,
                                    reference=facts.reference),
        memory=Memory(peak_bytes=facts.peak_memory_bytes, accelerator_bytes=state.accelerator_bytes),
    )
