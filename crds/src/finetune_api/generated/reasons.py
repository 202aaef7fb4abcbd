"""Generated from failures/failure_classes.py and failures/explanations.py: every reason.

They are the reasons of conditions, attempts, events and results.
`make generate` writes this file. Edit the entries there.
"""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Why a job is where it is: the reason of a condition, an attempt or an event."""

    NOT_LOOKED_AT = "NotLookedAt"
    """No operator has processed the job yet. The apiserver shows this for a job without a status."""

    VALID = "Valid"
    """The operator's settings and this version accept the spec."""

    INVALID_SPEC = "InvalidSpec"
    """The spec has a value that the operator's settings or this version do not accept."""

    PREFLIGHT = "Preflight"
    """A check on a CPU reads the data and the model and estimates the memory. Nothing is charged yet."""

    WAITING_FOR_CHECK = "WaitingForCheck"
    """The check waits for its turn: as many checks run as `preflight.parallelism` allows, or, in the namespace,
    `preflight.parallelismPerNamespace`."""

    PREFLIGHT_FAILED = "PreflightFailed"
    """The check itself failed, and failed again on each retry."""

    STARTED = "Started"
    """The start is recorded. From now on only `runPolicy` and `budget` can change."""

    STARTING = "Starting"
    """An attempt is created and its image is pulled."""

    ADMITTED = "Admitted"
    """Nodes have taken the job and, if it names a queue, the queue has admitted it."""

    CANNOT_START = "CannotStart"
    """Something prevents the start. The kubelet cannot start the container (the message quotes the kubelet or the
    pod's last event: a volume, the network). Or no pod can be created (ResourceQuota, LimitRange, ServiceAccount,
    PriorityClass; the message quotes the apiserver). Or the apiserver rejects the job's children. Or the accelerator
    is no longer in the catalogue."""

    UNSCHEDULABLE = "Unschedulable"
    """No node has what the job asks for, or all such nodes are busy."""

    WAITING_FOR_QUOTA = "WaitingForQuota"
    """Kueue has not admitted the job or its check yet. Or something suspends Jobs that are in no queue (Kueue's
    `manageJobsWithoutQueueName`)."""

    WAITING = "Waiting"
    """The next step is under way, and the earlier condition was lost."""

    RUNNING = "Running"
    """The trainer loads the model, prepares the data or trains."""

    EVALUATING = "Evaluating"
    """The model answers the held-out rows, before or after training."""

    UPLOADING = "Uploading"
    """The trainer exports and publishes the result."""

    RETRYING = "Retrying"
    """An attempt ended for a reason that the next one may not meet. The message says which."""

    STOPPING = "Stopping"
    """The attempt stops: the job was suspended, its Job was deleted, or the trainer did not stop at the budget. The
    trainer writes a checkpoint."""

    SUSPENDED = "Suspended"
    """`runPolicy.suspend` is true."""

    SUCCEEDED = "Succeeded"
    """The model is trained and published."""

    STOPPED_EARLY = "StoppedEarly"
    """Training reached a limit of `budget`, or the share of its steps in `runPolicy.stopAfter`. What was trained
    until then is evaluated and published."""

    ALREADY_PUBLISHED = "AlreadyPublished"
    """A result of the same spec, data and base model is published already. A result that missed its gate or stopped
    early ends the job as `QualityGate` or `StoppedEarly` again."""

    STATUS_REFUSED = "StatusRefused"
    """The apiserver rejects a whole status, most often because the CustomResourceDefinition is of another release.
    The conditions say it too, where they can be written."""

    INTERNAL = "InternalError"
    """The trainer hit an error of its own, or an error that nobody foresaw. The message quotes it. Of a job that is
    under way: the operator has an error of its own with this job. It tries again at least every minute, and the
    budget still holds."""

    BAD_CONFIG = "BadConfig"
    """The job cannot run as it is described (EX_USAGE). For example, a template names a column that no row has."""

    BAD_DATA = "BadData"
    """The trainer cannot learn from the rows (EX_DATAERR): they are broken or empty, or their answers do not match
    the schema."""

    MISSING_INPUT = "MissingInput"
    """A model, a file or a data set does not exist or cannot be opened (EX_NOINPUT): there is no access, or the
    server cannot be reached."""

    NO_ACCELERATOR = "NoAccelerator"
    """The trainer cannot use the accelerator that its pod was given (EX_UNAVAILABLE): it sees no GPU, or fewer than
    `compute.gpusPerNode`, or the driver does not work. The next attempt avoids the node for some minutes."""

    DIVERGED = "Diverged"
    """The loss became NaN or grew without limit. The last good checkpoint is kept."""

    OUT_OF_MEMORY = "OutOfMemory"
    """The accelerator's memory is too small, even for one row at a time with gradient checkpointing."""

    OUTPUT_NOT_WRITABLE = "OutputNotWritable"
    """The output cannot be written (EX_CANTCREAT). The trainer tries this before it trains."""

    STOPPED = "Stopped"
    """The trainer was asked to stop (EX_TEMPFAIL), for example because its node is drained, and wrote a
    checkpoint."""

    QUALITY_GATE = "QualityGate"
    """The gain on the held-out rows is below `evaluation.gate`."""

    HOST_OUT_OF_MEMORY = "HostOutOfMemory"
    """The pod needed more host memory than its limit, and the kernel killed it (OOMKilled)."""

    KILLED = "Killed"
    """Something outside the pod killed the trainer (exit code 137), and not for memory."""

    UNKNOWN_EXIT = "UnknownExit"
    """The pod ended with an exit code that the trainer does not use."""

    RESULT_LOST = "ResultLost"
    """The trainer ended well, but the operator cannot read its result. The next attempt adopts what is published."""

    EVICTED = "Evicted"
    """The kubelet evicted the pod for a limit of the pod's own, such as the size of its local storage."""

    POD_LOST = "PodLost"
    """The pod is gone and left no exit code: it was deleted by force, or its node was lost. The retry is free while
    the pod still exists on a node that does not answer."""

    JOB_DELETED = "JobDeleted"
    """Somebody deleted the attempt's Job while it ran."""

    DISRUPTED = "Disrupted"
    """The pod was removed from its node before the trainer could write a checkpoint. The message quotes who removed
    it."""

    PREEMPTED = "Preempted"
    """Kueue takes back the quota that it gave the job. The trainer writes a checkpoint; the next attempt waits in the
    queue."""

    DEADLINE_EXCEEDED = "DeadlineExceeded"
    """The trainer still ran two hours after `budget.maxDuration`, and the kubelet stopped it. Of a check: it did not
    end in `preflight.timeout`."""

    NODE_REFUSED = "NodeRefused"
    """The kubelet refused the pod."""

    IMAGE_PULL_FAILED = "ImagePullFailed"
    """The node cannot pull the trainer's image."""

    CONTAINER_CONFIG_ERROR = "ContainerConfigError"
    """The kubelet cannot create the container, most often because a Secret or one of its keys does not exist."""

    START_TIMEOUT = "StartTimeout"
    """A pod that has a node did not start within `startTimeout`."""

    BUDGET_SPENT = "BudgetSpent"
    """The budget was spent between two attempts, and nothing is published."""

    NO_PROGRESS = "NoProgress"
    """The job was stopped more than ten times in a row before it could write a newer checkpoint."""

    TOO_MANY_ATTEMPTS = "TooManyAttempts"
    """A Job with the operator's labels has the highest number that an attempt can have."""


class Outcome(StrEnum):
    """How an attempt ended, as the trainer reports it in its result."""

    SUCCEEDED = "Succeeded"
    """The model is trained and published."""

    STOPPED_EARLY = "StoppedEarly"
    """Training reached a limit of `budget`, or the share of its steps in `runPolicy.stopAfter`. What was trained
    until then is evaluated and published."""

    ALREADY_PUBLISHED = "AlreadyPublished"
    """A result of the same spec, data and base model is published already. A result that missed its gate or stopped
    early ends the job as `QualityGate` or `StoppedEarly` again."""

    INTERNAL = "InternalError"
    """The trainer hit an error of its own, or an error that nobody foresaw. The message quotes it. Of a job that is
    under way: the operator has an error of its own with this job. It tries again at least every minute, and the
    budget still holds."""

    BAD_CONFIG = "BadConfig"
    """The job cannot run as it is described (EX_USAGE). For example, a template names a column that no row has."""

    BAD_DATA = "BadData"
    """The trainer cannot learn from the rows (EX_DATAERR): they are broken or empty, or their answers do not match
    the schema."""

    MISSING_INPUT = "MissingInput"
    """A model, a file or a data set does not exist or cannot be opened (EX_NOINPUT): there is no access, or the
    server cannot be reached."""

    NO_ACCELERATOR = "NoAccelerator"
    """The trainer cannot use the accelerator that its pod was given (EX_UNAVAILABLE): it sees no GPU, or fewer than
    `compute.gpusPerNode`, or the driver does not work. The next attempt avoids the node for some minutes."""

    DIVERGED = "Diverged"
    """The loss became NaN or grew without limit. The last good checkpoint is kept."""

    OUT_OF_MEMORY = "OutOfMemory"
    """The accelerator's memory is too small, even for one row at a time with gradient checkpointing."""

    OUTPUT_NOT_WRITABLE = "OutputNotWritable"
    """The output cannot be written (EX_CANTCREAT). The trainer tries this before it trains."""

    STOPPED = "Stopped"
    """The trainer was asked to stop (EX_TEMPFAIL), for example because its node is drained, and wrote a
    checkpoint."""

    QUALITY_GATE = "QualityGate"
    """The gain on the held-out rows is below `evaluation.gate`."""
