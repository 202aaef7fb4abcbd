"""From an experiment to its jobs: variants × points of the sweep × repeats, each validated like a job of its own.

Pure. The patches are merged into the spec as the user, or the apiserver, wrote it: defaults are filled in afterwards,
as for any other job.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from finetune_api.experiment.measured import why_not_measured
from finetune_api.experiment.patch import patched
from finetune_api.experiment.resource import FineTuneExperiment
from finetune_api.experiment.spec import MOST_RUNS, FineTuneExperimentSpec, Sweep, Variant
from finetune_api.experiment.sweep import Point, points
from finetune_api.explain.fields import document_field
from finetune_api.job import KIND, FineTuneJob
from finetune_api.reading.loading import FieldError, InvalidJob, parse_job
from finetune_api.resolve import resolve_defaults, spec_hash
from finetune_api.rule import merge_patch
from finetune_api.spec.job import FineTuneJobSpec
from finetune_api.spec.policy import MissingCheckpoint
from finetune_api.values.api_model import GROUP, VERSION
from finetune_api.values.money import rounded_amount

_LONGEST_NAME = 40
_DIGITS = 8
_TEMPLATE = "template"


@dataclass(frozen=True)
class Run:
    """One job of an experiment.

    Attributes:
        variant: the name of its variant.
        settings: the values of the sweep, as text; empty without a sweep.
        repeat: the number of the repeat, from 0.
        rung: the number of the rung, from 0; None for a job that is trained to its end.
        share: the share of the steps that are done at its end; 1 for the whole.
        begin: the share of the steps after which it resumes, from the job of the rung before; 0 without one.
        job: the job. Its name follows from the experiment, the variant, and everything that decides the result.
        document: the job as plain data, as it is applied: without the defaults.
    """

    variant: str
    settings: str
    repeat: int
    rung: int | None
    share: float
    job: FineTuneJob
    document: Mapping[str, Any]
    begin: float = 0.0

    @property
    def name(self) -> str:
        """The name of the job."""
        return self.job.metadata.name

    @property
    def seed(self) -> int:
        """The job's `training.seed`."""
        return self.job.spec.training.seed

    @property
    def own_share(self) -> Decimal:
        """The share of the steps that it trains itself."""
        return Decimal(str(self.share)) - Decimal(str(self.begin))

    def own_part(self, amount: Decimal) -> Decimal:
        """What it costs itself, of what it would cost without the rung before."""
        return rounded_amount(amount * self.own_share / Decimal(str(self.share))) if self.begin else amount

    @property
    def part(self) -> str:
        """Which steps it trains, in words; empty for all of them."""
        if not self.begin:
            return f"{self.share:g} of the steps" if self.share < 1 else ""
        end = f"{self.share:g}" if self.share < 1 else "the end"
        return f"from {self.begin:g} of the steps to {end}"

    @property
    def details(self) -> str:
        """In what it differs from the other jobs of its variant, in words; empty if it is the only one."""
        return ", ".join(filter(None, (self.settings, f"seed {self.seed}" if self.repeat else "", self.part)))


class InvalidExperiment(InvalidJob):
    """An experiment that is not valid, or has a variant that is no valid job; `errors` has everything."""


@dataclass(frozen=True)
class _Draft:
    """A variant at a point of the sweep, before it is validated.

    Attributes:
        index: the number of the variant in the spec; None where there is none.
        name: its name, with that of the point.
        settings: the values of the point.
        spec: the job's spec as plain data.
        patch: everything that differs from the template.
    """

    index: int | None
    name: str
    settings: str
    spec: dict[str, Any]
    patch: dict[str, Any]


def expand(experiment: FineTuneExperiment, document: Mapping[str, Any], origin: str = "input") -> tuple[Run, ...]:
    """The jobs of an experiment, in the order in which they run: those of the first rung, …, those of all steps.

    Args:
        experiment: the experiment.
        document: the same as plain data, as it was written.
        origin: where it is from, for the message.

    Raises:
        InvalidExperiment: a variant is no valid job, there are too many, or two are the same; each error names variant,
            field and cure.
    """
    spec = experiment.spec
    drafts = _drafts(spec, document["spec"]["template"]["spec"], origin)
    runs: list[Run] = []
    errors: dict[str, list[FieldError]] = {}
    for draft in drafts:
        try:
            runs += _runs_of(experiment, draft)
        except InvalidJob as invalid:
            errors[draft.name] = list(invalid.errors)
    if errors:
        raise InvalidExperiment(_of_variants(drafts, errors), origin)
    if len(runs) > MOST_RUNS:
        raise InvalidExperiment([FieldError(
            "spec", None, f"{len(drafts)} variants with {spec.repeats} repeats"
            f"{' and the rungs of earlyStop' if spec.early_stop else ''} are {len(runs)} jobs; an experiment has at "
            f"most {MOST_RUNS}. Write fewer variants, values, samples or repeats")], origin)
    for run in runs:
        if (why := why_not_measured(run.job.spec, spec.rank_by.metric)) is not None:
            raise InvalidExperiment([FieldError(
                "spec.rankBy.metric", f'"{spec.rank_by.metric}"', f"variant {run.variant} does not measure it: {why}, "
                "or rank by a metric that every variant has")], origin)
    # All variants reach a rung before any trains for the next: only then is it known which ones go on.
    return tuple(sorted(runs, key=lambda run: (run.rung is None, run.rung or 0)))


def _drafts(spec: FineTuneExperimentSpec, template: Mapping[str, Any], origin: str) -> list[_Draft]:
    if unknown := _unknown_fields(spec.sweep):
        raise InvalidExperiment(unknown, origin)
    try:
        swept: Sequence[Point | None] = points(spec.sweep) if spec.sweep else (None,)
    except ValueError as error:
        raise InvalidExperiment([FieldError("spec.sweep", None, str(error))], origin) from error
    variants: Sequence[Variant | None] = spec.variants or (None,)
    if len(swept) * len(variants) > MOST_RUNS:
        raise InvalidExperiment([FieldError(
            "spec.sweep", None, f"{len(variants)} variants × {len(swept)} points are too many; an experiment has at "
            f"most {MOST_RUNS} jobs. Write fewer variants, values or samples")], origin)
    drafts = []
    for index, variant in enumerate(variants):
        for point in swept:
            patch = variant.patch if variant else {}
            merged = patched(patched(template, patch), point.patch if point else {})
            named = variant.name if variant else _TEMPLATE
            drafts.append(_Draft(index if variant else None, f"{named}-{point.name}" if point else named,
                                 point.words if point else "", merged,
                                 merge_patch(patch, point.patch if point else {})))
    return drafts


def _unknown_fields(sweep: Sweep | None) -> list[FieldError]:
    """The fields of a sweep that no job has."""
    if sweep is None:
        return []
    where = "grid" if sweep.grid else "random.fields"
    found = []
    for path in sweep.grid or (sweep.random.fields if sweep.random else ()):
        try:
            document_field(FineTuneJobSpec, path)
        except KeyError as error:
            found.append(FieldError(f"spec.sweep.{where}.{path}", None, f"{error.args[0]} (below a job's spec)"))
    return found


def _runs_of(experiment: FineTuneExperiment, draft: _Draft) -> Iterator[Run]:
    """The jobs of a variant.

    Raises:
        InvalidJob: it is no valid job.
    """
    base = Run(draft.name, draft.settings, 0, None, 1.0, *_job(experiment, draft, draft.spec))
    shares = experiment.spec.early_stop.rungs if experiment.spec.early_stop else ()
    if shares and (stop := base.job.spec.run_policy.stop_after) is not None:
        raise InvalidJob([FieldError("spec.runPolicy.stopAfter", f"{stop:g}", "spec.earlyStop of the experiment sets "
                                     "it for each rung: remove one of the two")], draft.name)
    before: Run | None = None
    for rung, share in enumerate(shares):
        before = _stage(experiment, draft, replace(base, rung=rung, share=share), before)
        yield before
    yield _stage(experiment, draft, base, before) if before else base
    for repeat in range(1, experiment.spec.repeats):
        spec = merge_patch(draft.spec, {"training": {"seed": base.seed + repeat}})
        job, document = _job(experiment, draft, spec)
        yield replace(base, repeat=repeat, job=job, document=document)


def _stage(experiment: FineTuneExperiment, draft: _Draft, run: Run, before: Run | None) -> Run:
    """A run that stops after its share of the steps, and resumes from the run of the rung before.

    The checkpoint may be gone, with the output or because the job before it never wrote one. Then it trains from the
    start: the job is checked before the rung has run, and would otherwise never pass.
    """
    policy: dict[str, Any] = {"stopAfter": run.share} if run.rung is not None else {}
    if before is not None:
        policy |= {"resumeFrom": before.name, "onMissingCheckpoint": MissingCheckpoint.TRAIN_FROM_START.value}
    job, document = _job(experiment, draft, merge_patch(draft.spec, {"runPolicy": policy}))
    return replace(run, job=job, document=document, begin=before.share if before else 0.0)


def _job(experiment: FineTuneExperiment, draft: _Draft, spec: dict[str, Any]) -> tuple[FineTuneJob, dict[str, Any]]:
    """A job, and the same as plain data.

    Raises:
        InvalidJob: it is no valid job.
    """
    metadata = {"name": "unnamed", "namespace": experiment.metadata.namespace}
    document = {"apiVersion": f"{GROUP}/{VERSION}", "kind": KIND, "metadata": metadata, "spec": spec}
    job = parse_job(document)
    metadata["name"] = job_name(experiment.metadata.name, draft.name, _digest(job))
    return job.model_copy(update={"metadata": job.metadata.model_copy(update={"name": metadata["name"]})}), document


def _digest(job: FineTuneJob) -> str:
    """The digest of everything that decides the result of a job: of its spec, and of the share that it trains."""
    digest, stop = spec_hash(resolve_defaults(job.spec)), job.spec.run_policy.stop_after
    return digest if stop is None else f"{digest}/{stop}"


def job_name(experiment: str, variant: str, digest: str) -> str:
    """The name of a job: readable, at most 40 characters, and another one where anything differs.

    Args:
        experiment: the experiment's name.
        variant: the variant's name.
        digest: the digest of everything that decides the result.
    """
    own = hashlib.sha256(f"{experiment}/{variant}/{digest}".encode()).hexdigest()[:_DIGITS]
    readable = f"{experiment}-{variant}"[:_LONGEST_NAME - _DIGITS - 1].rstrip("-")
    return f"{readable}-{own}"


def _of_variants(drafts: Sequence[_Draft], errors: Mapping[str, list[FieldError]]) -> list[FieldError]:
    """The errors of jobs as errors of the experiment; what is wrong with every variant is the template's."""
    def same(error: FieldError) -> tuple[str, str | None, str]:
        return error.path, error.value, error.message

    everywhere = set.intersection(*({same(error) for error in errors.get(draft.name, ())} for draft in drafts))
    found = [FieldError(f"spec.template.{path}" if path.startswith("spec") else "spec.template.spec", value, message)
             for path, value, message in sorted(everywhere, key=str)] if len(drafts) > 1 else []
    for draft in drafts:
        for error in errors.get(draft.name, ()):
            if len(drafts) == 1 or same(error) not in everywhere:
                where = f"variant {draft.name}" + (f" ({draft.settings})" if draft.settings else "")
                found.append(replace(error, path=f"{where}: {error.path}"))
    return found
