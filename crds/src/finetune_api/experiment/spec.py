"""The spec of a `FineTuneExperiment`: what a user writes."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field, WithJsonSchema

from finetune_api.spec.evaluation import Metric
from finetune_api.spec.job import FineTuneJobSpec
from finetune_api.values.api_model import ApiModel
from finetune_api.values.nesting import leaves
from finetune_api.values.quantities import Amount

MOST_RUNS = 100
"""Most jobs that one experiment may have: variants × points of the sweep × repeats, and those of the rungs."""

_DEEPEST_PATCH = 16
_FIELD_PATH = r"^[a-z][A-Za-z0-9]*(\.[a-z][A-Za-z0-9]*){0,7}$"


def _bounded(patch: dict[str, Any]) -> dict[str, Any]:
    for _ in leaves(patch, _DEEPEST_PATCH):
        pass
    return patch


def _scalar(value: Any) -> Any:
    if isinstance(value, bool | int | float | str):
        return value
    raise ValueError("write a number, a text, true or false")


MergePatch = Annotated[dict[str, Any], AfterValidator(_bounded),
                       WithJsonSchema({"type": "object", "x-kubernetes-preserve-unknown-fields": True})]
"""A JSON merge patch (RFC 7386): a mapping is merged, null removes, anything else replaces."""

Scalar = Annotated[Any, AfterValidator(_scalar), WithJsonSchema({"x-kubernetes-preserve-unknown-fields": True})]
"""A number, a text, or true or false."""

FieldPath = Annotated[str, Field(pattern=_FIELD_PATH, max_length=200)]
"""A field of a FineTuneJob's spec, as a dotted path below it, such as `method.lora.rank`."""

VariantName = Annotated[str, Field(pattern=r"^[a-z]([a-z0-9-]{0,18}[a-z0-9])?$")]
"""At most 20 lower-case letters, digits and dashes, a letter first."""


class JobTemplate(ApiModel):
    """What all variants have in common."""

    spec: FineTuneJobSpec
    """The spec of a FineTuneJob."""


class Variant(ApiModel):
    """One of the things to compare: the template with a patch."""

    name: VariantName
    """Name of the variant: at most 20 lower-case letters, digits and dashes, a letter first."""

    patch: MergePatch = Field(default_factory=dict)
    """JSON merge patch (RFC 7386) on the template's spec: a mapping is merged, null removes a field, anything else
    replaces. A patch that sets one of several exclusive fields (`epochs`, `maxSteps`; the settings of another method)
    removes the template's other one. `kubectl apply` keeps nulls only with `--server-side`. Default: the template as it
    is."""


class Scale(StrEnum):
    """How values between two bounds are drawn."""

    LINEAR = "linear"
    LOG = "log"


class SampledField(ApiModel):
    """The values that a random search draws for one field: a list, or a range."""

    values: Annotated[tuple[Scalar, ...], Field(min_length=1, max_length=100)] | None = None
    """Values to choose from. Write this, or `minimum` and `maximum`."""

    minimum: float | None = None
    """Smallest value of a range."""

    maximum: float | None = None
    """Largest value of a range. A field of whole numbers gets whole numbers."""

    scale: Scale = Scale.LINEAR
    """`linear` draws evenly between the bounds; `log` draws the logarithm evenly, as for a learning rate."""


class RandomSearch(ApiModel):
    """Random search: the same seed draws the same points."""

    samples: Annotated[int, Field(ge=1, le=MOST_RUNS)]
    """Number of points. With more samples, those of fewer stay the same."""

    seed: Annotated[int, Field(ge=0, le=4_294_967_295)] = 0
    """Seed of the draws."""

    fields: Annotated[dict[FieldPath, SampledField], Field(min_length=1, max_length=16)]
    """What is drawn for each field, by its path below the job's spec, such as `training.learningRate`."""


class Sweep(ApiModel):
    """Values of fields to try. Every variant is run with every point. Write `grid` or `random`."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1, "maxProperties": 1})

    grid: Annotated[dict[FieldPath, Annotated[tuple[Scalar, ...], Field(min_length=1, max_length=100)]],
                    Field(min_length=1, max_length=16)] | None = None
    """Values of each field, by its path below the job's spec, such as `method.lora.rank: [8, 16]`. Every combination is
    a point."""

    random: RandomSearch | None = None
    """Seeded random search."""


class RankBy(ApiModel):
    """How the results are ranked."""

    metric: Metric
    """The metric after training. Equal scores are ranked by cost."""

    tolerance: Annotated[float, Field(ge=0)] | None = None
    """In the metric's unit: the winner is the cheapest variant that is at most this much worse than the best. Default:
    the best wins, if the difference to the others is more than chance."""


class ExperimentBudget(ApiModel):
    """What all variants together may cost."""

    max_cost: Amount | None = None
    """Largest amount that all jobs together may spend on accelerators, in the catalogue's currency. Each job gets a
    share of what is left. Default: without limit."""


class EarlyStop(ApiModel):
    """Successive halving (Jamieson and Talwalkar, 2016): all variants are trained for a part of their steps, and only
    the better ones go on. A rung is a job that stops after its share of the steps (`runPolicy.stopAfter`); the next job
    of its variant resumes from its checkpoint, so no step is trained twice.
    """

    rungs: Annotated[tuple[Annotated[float, Field(gt=0, lt=1)], ...], Field(min_length=1, max_length=4)]
    """Shares of all steps, rising, such as `[0.25]`."""

    keep: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Share of the variants that goes on after each rung, rounded up: those with the best held-out score."""


class FineTuneExperimentSpec(ApiModel):
    """A template of a job, its variants, and how they are compared."""

    template: JobTemplate
    """The job that every variant is a patch on."""

    variants: Annotated[tuple[Variant, ...], Field(max_length=MOST_RUNS, json_schema_extra={
        "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]})] = ()
    """The variants. They run in this order."""

    sweep: Sweep | None = None
    """Values of fields to try, for each variant; without variants, for the template."""

    rank_by: RankBy
    """How the results are ranked."""

    repeats: Annotated[int, Field(ge=1, le=10)] = 1
    """How often each variant is run, each time with another `training.seed`: that of the job, and those after it."""

    parallelism: Annotated[int, Field(ge=1, le=MOST_RUNS)] = 1
    """Most jobs at the same time. `finetune run` runs one after the other."""

    budget: ExperimentBudget = ExperimentBudget()
    """Limit of money."""

    early_stop: EarlyStop | None = None
    """Give up on variants that do badly after a part of their steps. Default: every variant is trained to its end."""

    suspend: bool = False
    """Start nothing, and suspend the jobs that run. Set it to false to go on."""
