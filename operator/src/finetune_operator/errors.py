"""Every error that the operator raises. The class says what happens next.

- `RetryableError`: the pass over one job ends, and the job is tried again with back-off.
- `TerminalError`: the process ends. An administrator mends the cause, or the next start of the pod does.
"""

from __future__ import annotations

import re
from http import HTTPStatus

AUTHORIZATION = "authorization"
ADMISSION = "admission"
_NOT_AUTHORIZED = re.compile(r'User ".*" cannot \S+ (resource|path) ')
"""The text of every refusal by an authorizer. Admission (ResourceQuota, LimitRange, policies) uses other texts."""

_REFUSALS = (HTTPStatus.BAD_REQUEST, HTTPStatus.FORBIDDEN, HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
             HTTPStatus.UNPROCESSABLE_ENTITY)


class OperatorError(Exception):
    """The root of the tree."""


class RetryableError(OperatorError):
    """One pass over one job failed. The job is tried again with back-off."""


class TerminalError(OperatorError):
    """The process cannot go on."""


class ApiError(RetryableError):
    """The apiserver refused a request.

    Attributes:
        status: HTTP status code.
        reason: the apiserver's machine-readable reason, such as `AlreadyExists`.
        refused_by: for a 401 or 403, AUTHORIZATION if the operator's role lacks a permission, and ADMISSION if a quota
            or a policy refused the object; otherwise an empty string.
        fields: paths of the fields that the apiserver refused, such as `status.cost.spent`, if it named them.
    """

    def __init__(self, status: int, reason: str, message: str, fields: tuple[str, ...] = ()) -> None:
        self.status = status
        self.reason = reason
        self.fields = fields
        self.refused_by = ""
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            unauthorized = status == HTTPStatus.UNAUTHORIZED or _NOT_AUTHORIZED.search(message)
            self.refused_by = AUTHORIZATION if unauthorized else ADMISSION
        super().__init__(f"{status} {reason}: {message}")

    @property
    def is_conflict(self) -> bool:
        """Whether the object changed since it was read. The next pass plans with the new state."""
        return self.status == HTTPStatus.CONFLICT

    @property
    def is_missing(self) -> bool:
        """Whether the object does not exist."""
        return self.status == HTTPStatus.NOT_FOUND

    @property
    def already_exists(self) -> bool:
        """Whether an object of this name exists."""
        return self.reason == "AlreadyExists"

    @property
    def refuses_content(self) -> bool:
        """Whether the apiserver does not accept what the object contains."""
        return self.status in _REFUSALS and self.status != HTTPStatus.FORBIDDEN

    @property
    def is_of_namespace(self) -> bool:
        """Whether the cause is in the job's namespace (a quota, an admission rule, the object itself).

        Another try alone does not help then, and the operator works as it should.
        """
        return self.status in _REFUSALS and self.refused_by != AUTHORIZATION


class NameTaken(RetryableError):
    """The name of a job's child belongs to another owner's object."""


class ChildRefused(RetryableError):
    """A quota, a policy or another owner's object in the job's namespace stands in the way of a child."""


class DecisionFailed(RetryableError):
    """The plan for a job could not be made. `__cause__` is the fault."""


class BadSettings(TerminalError):
    """The settings file is not valid. The message names each field and what to write."""


class NoCluster(TerminalError):
    """There is neither a service account nor a kubeconfig."""


class LeaseLost(TerminalError):
    """Another replica may lead now."""


class WatchLost(TerminalError):
    """A watch ended, and kopf does not start it again."""
