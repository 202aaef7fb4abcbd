"""The failure classes: one entry each. CONTRIBUTING has the recipe to add one; then `make generate`."""

from __future__ import annotations

from finetune_api.failures.failure_class import AlertGroup, Delay, FailureClass, Retry

_OF_THE_TRAINER = (
    FailureClass(
        reason="InternalError", member="INTERNAL", exit_code=1, retry=Retry.COUNTED, alert=AlertGroup.PLATFORM,
        cause="The trainer hit an error of its own, or an error that nobody foresaw. The message quotes it. Of a job "
              "that is under way: the operator has an error of its own with this job. It tries again at least every "
              "minute, and the budget still holds.",
        cure="Report it to the project, with the message and the log of the pod or the operator. `finetune run "
             "--debug` prints the traceback."),
    FailureClass(
        reason="BadConfig", exit_code=64, retry=Retry.NEVER, alert=AlertGroup.SPEC, changes_training=True,
        message="the trainer refused the job's configuration and could not say why",
        cause="The job cannot run as it is described (EX_USAGE). For example, a template names a column that no row "
              "has.",
        cure="Change the field that the message names to what the message says."),
    FailureClass(
        reason="BadData", exit_code=65, retry=Retry.NEVER, alert=AlertGroup.SPEC, changes_training=True,
        message="the trainer refused the data and could not say why",
        cause="The trainer cannot learn from the rows (EX_DATAERR): they are broken or empty, or their answers do not "
              "match the schema.",
        cure="Correct the rows that the message names."),
    FailureClass(
        reason="MissingInput", exit_code=66, retry=Retry.NEVER, alert=AlertGroup.SPEC, changes_training=True,
        message="the trainer could not open the model or the data set",
        cause="A model, a file or a data set does not exist or cannot be opened (EX_NOINPUT): there is no access, or "
              "the server cannot be reached.",
        cure="Check the location, `revision`, the keys of the Secret, and that `trainerNetwork` allows the "
             "connection."),
    FailureClass(
        reason="NoAccelerator", exit_code=69, retry=Retry.COUNTED, avoids_node=True, alert=AlertGroup.PLATFORM,
        message="the trainer cannot use the accelerator that its pod was given, and could not say why",
        cause="The trainer cannot use the accelerator that its pod was given (EX_UNAVAILABLE): it sees no GPU, or "
              "fewer than `compute.gpusPerNode`, or the driver does not work. The next attempt avoids the node for "
              "some minutes.",
        cure="An administrator looks at the node that `node` names: the message lists the device files, the driver's "
             "libraries and the variables that the trainer found, and what to check."),
    FailureClass(
        reason="Diverged", exit_code=70, retry=Retry.NEVER, alert=AlertGroup.SPEC, changes_training=True,
        message="the loss became NaN or grew without limit: lower training.learningRate",
        cause="The loss became NaN or grew without limit. The last good checkpoint is kept.",
        cure="Lower `training.learningRate`, use more warm-up steps, or change the data."),
    FailureClass(
        reason="OutOfMemory", exit_code=71, retry=Retry.SMALLER_PLAN, delay=Delay.NONE, alert=AlertGroup.MEMORY,
        message="the accelerator's memory is too small",
        cause="The accelerator's memory is too small, even for one row at a time with gradient checkpointing.",
        cure="Lower `training.maxLength`, set `method.quantization: nf4`, or choose a larger `compute.accelerator`."),
    FailureClass(
        reason="OutputNotWritable", exit_code=73, retry=Retry.NEVER, alert=AlertGroup.SPEC,
        message="the output cannot be written: check output.uri and its credentials",
        cause="The output cannot be written (EX_CANTCREAT). The trainer tries this before it trains.",
        cure="Check `output.uri`, that the credentials may put objects there, and the access mode of the claim."),
    FailureClass(
        reason="Stopped", exit_code=75, retry=Retry.FREE, delay=Delay.NONE,
        message="the trainer was asked to stop and wrote a checkpoint",
        cause="The trainer was asked to stop (EX_TEMPFAIL), for example because its node is drained, and wrote a "
              "checkpoint.",
        cure="Nothing: the next attempt resumes from the checkpoint. On your own machine, run the job again."),
    FailureClass(
        reason="QualityGate", exit_code=0, retry=Retry.NEVER, alert=AlertGroup.SPEC, changes_training=True,
        cause="The gain on the held-out rows is below `evaluation.gate`.",
        cure="Read the report. The adapter is published all the same."),
)

_OF_THE_POD = (
    FailureClass(
        reason="HostOutOfMemory", retry=Retry.NEVER, alert=AlertGroup.MEMORY,
        cause="The pod needed more host memory than its limit, and the kernel killed it (OOMKilled).",
        cure="Raise `compute.memory`."),
    FailureClass(
        reason="Killed", retry=Retry.COUNTED, alert=AlertGroup.PLATFORM,
        cause="Something outside the pod killed the trainer (exit code 137), and not for memory.",
        cure="Look at the node's events."),
    FailureClass(
        reason="UnknownExit", retry=Retry.COUNTED, alert=AlertGroup.PLATFORM,
        cause="The pod ended with an exit code that the trainer does not use.",
        cure="Check the sidecars of `podTemplate` and the image of `trainerImage`."),
    FailureClass(
        reason="ResultLost", retry=Retry.COUNTED, alert=AlertGroup.PLATFORM,
        cause="The trainer ended well, but the operator cannot read its result. The next attempt adopts what is "
              "published.",
        cure="Nothing, unless it happens again."),
    FailureClass(
        reason="Evicted", retry=Retry.COUNTED, alert=AlertGroup.PLATFORM,
        cause="The kubelet evicted the pod for a limit of the pod's own, such as the size of its local storage.",
        cure="Use less data at once, or keep models on a claim (`modelCacheClaim`). An administrator can raise "
             "`ephemeralStorage` of the accelerator, or `preflight.ephemeralStorage` for a check."),
    FailureClass(
        reason="PodLost", retry=Retry.COUNTED, alert=AlertGroup.PLATFORM,
        cause="The pod is gone and left no exit code: it was deleted by force, or its node was lost. The retry is free "
              "while the pod still exists on a node that does not answer.",
        cure="Look at the nodes. Raise `runPolicy.backoffLimit` where nodes come and go."),
    FailureClass(
        reason="JobDeleted", retry=Retry.COUNTED, alert=AlertGroup.PLATFORM,
        cause="Somebody deleted the attempt's Job while it ran.",
        cure="Do not delete the operator's Jobs. `runPolicy.suspend` stops one."),
    FailureClass(
        reason="Disrupted", retry=Retry.FREE, delay=Delay.NONE,
        cause="The pod was removed from its node before the trainer could write a checkpoint. The message quotes who "
              "removed it.",
        cure="Nothing. A lower `training.checkpointEvery` loses fewer steps."),
    FailureClass(
        reason="Preempted", retry=Retry.FREE, delay=Delay.NONE,
        cause="Kueue takes back the quota that it gave the job. The trainer writes a checkpoint; the next attempt "
              "waits in the queue.",
        cure="Nothing."),
    FailureClass(
        reason="DeadlineExceeded", retry=Retry.FREE, delay=Delay.NONE,
        cause="The trainer still ran two hours after `budget.maxDuration`, and the kubelet stopped it. Of a check: it "
              "did not end in `preflight.timeout`.",
        cure="After an attempt, the job ends as `BudgetSpent`, or resumes if you raised its budget. For a check, an "
             "administrator raises `preflight.timeout`."),
)

_OF_THE_START = (
    FailureClass(
        reason="NodeRefused", retry=Retry.ELSEWHERE, delay=Delay.DOUBLING_TO_AN_HOUR, avoids_node=True,
        cause="The kubelet refused the pod.",
        cure="An administrator looks at the node that `node` names."),
    FailureClass(
        reason="ImagePullFailed", retry=Retry.ELSEWHERE, first_start=Retry.NEVER, delay=Delay.DOUBLING_TO_AN_HOUR,
        avoids_node=True, alert=AlertGroup.PLATFORM,
        cause="The node cannot pull the trainer's image.",
        cure="An administrator checks `trainerImage`, the registry and `settings.imagePullSecrets`."),
    FailureClass(
        reason="ContainerConfigError", retry=Retry.ELSEWHERE, first_start=Retry.NEVER,
        delay=Delay.DOUBLING_TO_AN_HOUR, avoids_node=True, alert=AlertGroup.SPEC,
        cause="The kubelet cannot create the container, most often because a Secret or one of its keys does not exist.",
        cure="Create the Secret that the job names, in the job's namespace, with the keys of its purpose."),
    FailureClass(
        reason="StartTimeout", retry=Retry.ELSEWHERE, first_start=Retry.NEVER, delay=Delay.DOUBLING_TO_AN_HOUR,
        avoids_node=True, alert=AlertGroup.PLATFORM,
        cause="A pod that has a node did not start within `startTimeout`.",
        cure="The message quotes the kubelet. Most often a volume cannot be mounted."),
)

_OF_THE_JOB = (
    FailureClass(
        reason="BudgetSpent", retry=Retry.NEVER, alert=AlertGroup.LIMITS,
        cause="The budget was spent between two attempts, and nothing is published.",
        cure="Raise `budget.maxCost` or `budget.maxDuration` in a new job, with `runPolicy.resumeFrom`."),
    FailureClass(
        reason="NoProgress", retry=Retry.NEVER, alert=AlertGroup.LIMITS,
        cause="The job was stopped more than ten times in a row before it could write a newer checkpoint.",
        cure="Lower `training.checkpointEvery`, or remove `compute.spot`."),
    FailureClass(
        reason="TooManyAttempts", retry=Retry.NEVER, alert=AlertGroup.PLATFORM,
        cause="A Job with the operator's labels has the highest number that an attempt can have.",
        cure="Delete that Job, and apply the job again."),
)

FAILURE_CLASSES: tuple[FailureClass, ...] = (*_OF_THE_TRAINER, *_OF_THE_POD, *_OF_THE_START, *_OF_THE_JOB)
"""Every failure class: what the trainer reports, what the pod's state shows, what keeps a pod from its start, and what
ends a job between attempts."""
