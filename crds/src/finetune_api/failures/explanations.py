"""The reasons that are no failure of an attempt: one entry each."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from finetune_api.failures.failure_class import member_name


class DocsSection(StrEnum):
    """Where a reason stands in docs/reference/conditions.md: the section's title."""

    UNDER_WAY = "Under way"
    SUCCESS = "Success"
    EVENT = "Only as an event"


@dataclass(frozen=True)
class Explanation:
    """A reason that is no failure class.

    Attributes:
        reason: the word in conditions and events.
        meaning: what it says of the job, as a sentence.
        action: what the user or the administrator does, as a sentence.
        section: where the docs list it.
        outcome: whether the trainer reports it in its result.
    """

    reason: str
    meaning: str
    action: str
    section: DocsSection = DocsSection.UNDER_WAY
    outcome: bool = False

    @property
    def name(self) -> str:
        """The name in the enums."""
        return member_name(self.reason)


_BEFORE_THE_START = (
    Explanation(
        "NotLookedAt", "No operator has processed the job yet. The apiserver shows this for a job without a status.",
        "If it stays, check that the operator runs and that it serves the job's namespace (`namespaces` in the chart's "
        "values)."),
    Explanation("Valid", "The operator's settings and this version accept the spec.", "Nothing."),
    Explanation(
        "InvalidSpec", "The spec has a value that the operator's settings or this version do not accept.",
        "Write what the message says; the operator checks the same object again. `settings.allowed`, "
        "`settings.accelerators` and `trainerNetwork` are the administrator's."),
    Explanation(
        "Preflight", "A check on a CPU reads the data and the model and estimates the memory. Nothing is charged yet "
        "([preflight.md](../explanation/preflight.md)).",
        "Nothing. If the check rejects the job, the reason is that of the failure below (`BadConfig`, `BadData`, "
        "`OutOfMemory`, …), and the job waits for an edit."),
    Explanation(
        "WaitingForCheck", "The check waits for its turn: as many checks run as `preflight.parallelism` allows, or, in "
        "the namespace, `preflight.parallelismPerNamespace`.",
        "Nothing: the check starts when another one ends."),
    Explanation(
        "PreflightFailed", "The check itself failed, and failed again on each retry.",
        "The message says how. Edit the spec to check it again, or set `runPolicy.preflight: Skip`."),
    Explanation(
        "Started", "The start is recorded. From now on only `runPolicy` and `budget` can change.", "Nothing."),
)

_UNDER_WAY = (
    Explanation(
        "Starting", "An attempt is created and its image is pulled.",
        "Wait. After `startTimeout` it fails and the message quotes the kubelet."),
    Explanation(
        "Admitted", "Nodes have taken the job and, if it names a queue, the queue has admitted it.", "Nothing."),
    Explanation(
        "CannotStart", "Something prevents the start. The kubelet cannot start the container (the message quotes the "
        "kubelet or the pod's last event: a volume, the network). Or no pod can be created (ResourceQuota, LimitRange, "
        "ServiceAccount, PriorityClass; the message quotes the apiserver). Or the apiserver rejects the job's "
        "children. Or the accelerator is no longer in the catalogue.",
        "Correct what the message quotes. The job then continues without further action."),
    Explanation(
        "Unschedulable", "No node has what the job asks for, or all such nodes are busy.",
        "Wait, which costs nothing, or create a new job with another `compute.accelerator`. An administrator compares "
        "the catalogue's node labels and taints with the nodes."),
    Explanation(
        "WaitingForQuota", "Kueue has not admitted the job or its check yet. Or something suspends Jobs that are in no "
        "queue (Kueue's `manageJobsWithoutQueueName`).",
        "Look at the LocalQueue that `compute.queueName` names, or `preflight.queueName` in the operator's settings. "
        "Name one where there is none."),
    Explanation(
        "Waiting", "The next step is under way, and the earlier condition was lost.",
        "Look at the job's Jobs and pods."),
    Explanation("Running", "The trainer loads the model, prepares the data or trains.", "Nothing."),
    Explanation("Evaluating", "The model answers the held-out rows, before or after training.", "Nothing."),
    Explanation("Uploading", "The trainer exports and publishes the result.", "Nothing."),
    Explanation(
        "Retrying", "An attempt ended for a reason that the next one may not meet. The message says which.",
        "Nothing: the job resumes from the last checkpoint. If a node refuses the pod, or an image or a volume worked "
        "once and does not now, the operator tries again for as long as it takes."),
    Explanation(
        "Stopping", "The attempt stops: the job was suspended, its Job was deleted, or the trainer did not stop at the "
        "budget. The trainer writes a checkpoint.", "Wait."),
    Explanation(
        "Suspended", "`runPolicy.suspend` is true.", "Set it to false. The job then resumes from its last checkpoint."),
)

_SUCCESS = (
    Explanation(
        "Succeeded", "The model is trained and published.",
        "`status.adapter.uri` is the adapter. The report is beside it.", DocsSection.SUCCESS, outcome=True),
    Explanation(
        "StoppedEarly", "Training reached a limit of `budget`, or the share of its steps in `runPolicy.stopAfter`. "
        "What was trained until then is evaluated and published.",
        "To train longer, create a new job with `runPolicy.resumeFrom`, and with a higher `budget.maxCost` or "
        "`budget.maxDuration`, or without `runPolicy.stopAfter`.", DocsSection.SUCCESS, outcome=True),
    Explanation(
        "AlreadyPublished", "A result of the same spec, data and base model is published already. A result that missed "
        "its gate or stopped early ends the job as `QualityGate` or `StoppedEarly` again.",
        "Set `runPolicy.rerun: Always` to train again.", DocsSection.SUCCESS, outcome=True),
)

_EVENTS = (
    Explanation(
        "StatusRefused", "The apiserver rejects a whole status, most often because the CustomResourceDefinition is of "
        "another release. The conditions say it too, where they can be written.",
        "An administrator installs the CustomResourceDefinition of the operator's release.", DocsSection.EVENT),
)

EXPLANATIONS: tuple[Explanation, ...] = (*_BEFORE_THE_START, *_UNDER_WAY, *_SUCCESS, *_EVENTS)
"""Every reason that is no failure class, in the order in which a job meets them."""
