"""What botocore's errors mean: is it worth another try, and the sentence for whoever has to mend it."""

from __future__ import annotations

import re
from enum import Enum

from wren_worker.aws.shortfalls import mend, roles_mend

__all__ = ["Fault", "classify", "error_code", "explain", "http_status", "is_aws_error"]

_DENIED = frozenset({"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "AuthorizationError"})
_CREDENTIALS = frozenset(
    {
        "AuthFailure",
        "ExpiredToken",
        "ExpiredTokenException",
        "IncompleteSignature",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidToken",
        "MissingAuthenticationToken",
        "RequestExpired",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)
_SKEWED = frozenset({"RequestTimeTooSkewed", "RequestInTheFuture"})
_THROTTLED = frozenset(
    {
        "BandwidthLimitExceeded",
        "KmsThrottled",
        "LimitExceededException",
        "OverLimit",
        "PriorRequestNotComplete",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "SlowDown",
        "ThrottledException",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)
_GONE = frozenset(
    {
        "AWS.SimpleQueueService.NonExistentQueue",
        "InvalidLaunchTemplateId.NotFound",
        "InvalidLaunchTemplateName.NotFoundException",
        "NoSuchBucket",
        "NoSuchEntity",
        "QueueDoesNotExist",
        "ResourceNotFoundException",
    }
)
_PASSING = frozenset(
    {
        "ConditionalRequestConflict",
        "InternalError",
        "InternalFailure",
        "OperationAborted",
        "RequestTimeout",
        "RequestTimeoutException",
        "ServiceUnavailable",
        "Unavailable",
    }
)
_ACTION = re.compile(r"not authorized to perform:? \(?([A-Za-z0-9-]+:[A-Za-z0-9*]+)")
_RESOURCE = re.compile(r"on resource:? (arn:[^\s,;]+|\"[^\"]+\")")


class Fault(Enum):
    """What kind of trouble an error of AWS is."""

    PASSING = "passing"  # the same request may succeed in a moment
    THROTTLED = "throttled"  # likewise, after a longer moment
    DENIED = "denied"
    CREDENTIALS = "credentials"
    SKEWED = "skewed"
    GONE = "gone"
    NO_REGION = "no region"
    OTHER = "other"

    @property
    def retryable(self) -> bool:
        """Return whether the same request may succeed later without anybody's help."""
        return self in (Fault.PASSING, Fault.THROTTLED)


def is_aws_error(error: BaseException) -> bool:
    """Return whether an exception comes from botocore or from the HTTP layer below it."""
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 - boto is loaded when needed
    from urllib3.exceptions import HTTPError  # noqa: PLC0415 - likewise

    return isinstance(error, (ClientError, BotoCoreError, HTTPError, ConnectionError, TimeoutError))


def error_code(error: BaseException) -> str:
    """Return AWS's code of an error, "" when no answer came."""
    response = getattr(error, "response", None)
    if not isinstance(response, dict):
        return ""
    # SQS's JSON protocol answers "com.amazonaws.sqs#QueueDoesNotExist" in places
    return str(response.get("Error", {}).get("Code", "")).rpartition("#")[2]


def http_status(error: BaseException) -> int:
    """Return the HTTP status of an error, 0 when no answer came."""
    response = getattr(error, "response", None)
    if not isinstance(response, dict):
        return 0
    return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def classify(error: BaseException) -> Fault:
    """Return what kind of trouble an error is."""
    from botocore.exceptions import ClientError  # noqa: PLC0415 - boto is loaded when needed

    if isinstance(error, ClientError):
        return _classify_answer(error_code(error), http_status(error))
    return _classify_silence(error)


def _classify_answer(code: str, status: int) -> Fault:  # noqa: PLR0911 - one line per kind
    if code in _THROTTLED or status == 429:
        return Fault.THROTTLED
    if code in _GONE:
        return Fault.GONE
    if code in _CREDENTIALS:
        return Fault.CREDENTIALS
    if code in _SKEWED:
        return Fault.SKEWED
    if code in _DENIED or status == 403:
        return Fault.DENIED
    if code in _PASSING or status >= 500 or status == 409:
        return Fault.PASSING
    return Fault.OTHER


def _classify_silence(error: BaseException) -> Fault:
    from botocore import exceptions as boto  # noqa: PLC0415 - boto is loaded when needed
    from urllib3.exceptions import HTTPError  # noqa: PLC0415 - likewise

    no_credentials = (
        boto.NoCredentialsError,
        boto.PartialCredentialsError,
        boto.CredentialRetrievalError,
        boto.TokenRetrievalError,
        boto.SSOError,
        boto.LoginError,
        boto.ProfileNotFound,
        boto.NoAuthTokenError,
    )
    if isinstance(error, no_credentials):
        return Fault.CREDENTIALS
    if isinstance(error, (boto.NoRegionError, boto.InvalidRegionError)):
        return Fault.NO_REGION
    passing = (
        boto.HTTPClientError,
        boto.ConnectionError,
        boto.IncompleteReadError,
        boto.ChecksumError,
        boto.MetadataRetrievalError,
        boto.FlexibleChecksumError,
        HTTPError,
        ConnectionError,
        TimeoutError,
    )
    return Fault.PASSING if isinstance(error, passing) else Fault.OTHER


def explain(error: BaseException) -> str:  # noqa: PLR0911 - one line per kind
    """Return one or two sentences: what happened, the likely cause, the next step."""
    fault = classify(error)
    match fault:
        case Fault.CREDENTIALS:
            return _explain_credentials(error)
        case Fault.DENIED:
            return _explain_denied(error)
        case Fault.SKEWED:
            return "AWS refused the signature because this machine's clock is wrong. Set the clock (NTP) and try again."
        case Fault.NO_REGION:
            return "No AWS region is set. Pass --region, or set AWS_REGION or a region in ~/.aws/config."
        case Fault.THROTTLED:
            return f"AWS throttled {_operation(error)} ({error_code(error)}) for as long as it was tried. Try later."
        case Fault.GONE:
            return f"{_operation(error)} found that it does not exist ({_message(error)}). Was `setup` run?"
        case Fault.PASSING:
            return f"{_operation(error)} failed for as long as it was tried: {_message(error)}. Check the network."
        case Fault.OTHER:
            return f"{_operation(error)} failed: {_message(error)}. {mend([(error_code(error), '')])}".rstrip()


def _operation(error: BaseException) -> str:
    return str(getattr(error, "operation_name", "") or "The request to AWS")


def _message(error: BaseException) -> str:
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        found = response.get("Error", {})
        text = str(found.get("Message") or "").strip().rstrip(".")
        return f"{error_code(error)}: {text}" if text else error_code(error) or str(error)
    return (str(error).strip() or type(error).__name__).rstrip(".")


def _explain_credentials(error: BaseException) -> str:
    from botocore import exceptions as boto  # noqa: PLC0415 - boto is loaded when needed

    if isinstance(error, boto.ProfileNotFound):
        return f"{_message(error)}. Name a profile of ~/.aws/config, or leave --profile away."
    if isinstance(error, (boto.SSOError, boto.TokenRetrievalError, boto.LoginError)):
        return f"The AWS sign-in session has expired or is missing ({_message(error)}). Run `aws sso login` again."
    if isinstance(error, boto.PartialCredentialsError):
        return f"The AWS credentials are incomplete: {_message(error)}."
    if not error_code(error):
        return "No AWS credentials were found. Run `aws configure` or `aws sso login`, or set AWS_PROFILE."
    if error_code(error).startswith(("ExpiredToken", "RequestExpired")):
        return "The AWS credentials have expired. Sign in again (`aws sso login`, or renew the session token)."
    return f"AWS does not accept the credentials ({_message(error)}). Check the profile, the keys and the region."


def _explain_denied(error: BaseException) -> str:
    text = _message(error)
    if "ServiceLinkedRole" in error_code(error):
        return f"A service-linked role of EC2 is missing, and you may not make it. {roles_mend(text)}"
    action, resource = _ACTION.search(text), _RESOURCE.search(text)
    name = action.group(1) if action else _operation(error)
    where = f" on {resource.group(1)}" if resource else ""
    return (
        f"AWS denied {name}{where}. The identity in use lacks this permission; "
        "`wren-standalone setup --print-policies` prints what is needed."
    )
