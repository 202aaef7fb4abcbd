"""Why S3 requests fail, in words. Messages of servers and of boto3 are not passed on: some quote credentials."""

from __future__ import annotations

from boto3.exceptions import S3UploadFailedError
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    NoCredentialsError,
    PartialCredentialsError,
    ReadTimeoutError,
    SSLError,
)

_KEYS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
_DENIED = "access is denied; the credentials need to list, read, write and delete there"
_REASONS = {
    "InvalidAccessKeyId": f"the server does not know the access key; check {_KEYS}",
    "SignatureDoesNotMatch": f"the secret key does not belong to the access key; check {_KEYS}",
    "ExpiredToken": "the credentials have expired; renew them, with AWS_SESSION_TOKEN",
    "InvalidToken": "the session token is not valid; check AWS_SESSION_TOKEN",
    "AccessDenied": _DENIED,
    "403": _DENIED,
    "NoSuchBucket": "there is no such bucket; create it, or correct its name",
    "NoSuchKey": "no such file",
    # The answer to a HEAD request has no body that says which of the two it is.
    "404": "no such file, or no such bucket",
    "PermanentRedirect": "the bucket is in another region; write spec.output.s3.region",
    "AuthorizationHeaderMalformed": "the bucket is in another region; write spec.output.s3.region",
    "RequestTimeTooSkewed": "the clock of this machine is wrong; set it",
    "NotImplemented": "the server does not know this kind of request; it may be too old",
    "QuotaExceeded": "the bucket is full; free some space or raise its quota",
    "InsufficientStorage": "the server's disk is full; free some space",
}


def code_of(error: ClientError) -> str:
    """The server's error code, or the HTTP status where it sent none."""
    return str(error.response.get("Error", {}).get("Code", ""))


def reason_of_code(code: str) -> str:
    """The meaning of a server's error code for the user."""
    return _REASONS.get(code, f"the server answered {code}")


def reason(error: BaseException, endpoint: str) -> str:
    """Why a request failed and what to check, without headers, signatures and keys.

    Args:
        error: the exception from boto3.
        endpoint: the server's address, without credentials.
    """
    if isinstance(error, S3UploadFailedError) and error.__context__ is not None:
        return reason(error.__context__, endpoint)
    if isinstance(error, ClientError):
        return reason_of_code(code_of(error))
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        return f"no credentials were found; set {_KEYS}, or in a cluster spec.output.s3.credentialsSecretRef"
    if isinstance(error, ConnectTimeoutError | EndpointConnectionError):
        return f"{endpoint} can't be reached; check spec.output.s3.endpointUrl and the network"
    if isinstance(error, ReadTimeoutError):
        return f"{endpoint} does not answer; check spec.output.s3.endpointUrl and the server"
    if isinstance(error, SSLError):
        return (f"no secure connection to {endpoint}; is it http:// rather than https://, and is its certificate known "
                "here (AWS_CA_BUNDLE)?")
    kind = "the connection broke" if not isinstance(error, BotoCoreError) else "the request failed"
    return f"{kind} at {endpoint} ({type(error).__name__})"
