"""What botocore's errors are taken for, and the sentences made of them."""

from __future__ import annotations

import pytest
import urllib3.exceptions
from botocore import exceptions as boto

from wren_worker.aws.errors import Fault, classify, error_code, explain, http_status, is_aws_error


def answer(code, status, message="", operation="SendMessage"):
    response = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return boto.ClientError(response, operation)


ENDPOINT = {"endpoint_url": "http://nowhere"}
KINDS = [
    (answer("ThrottlingException", 400), Fault.THROTTLED),
    (answer("RequestLimitExceeded", 503), Fault.THROTTLED),
    (answer("SlowDown", 503), Fault.THROTTLED),
    (answer("Anything", 429), Fault.THROTTLED),
    (answer("InternalError", 500), Fault.PASSING),
    (answer("Unheard", 503), Fault.PASSING),
    (answer("ConditionalRequestConflict", 409), Fault.PASSING),
    (answer("RequestTimeout", 400), Fault.PASSING),
    (answer("409", 409), Fault.PASSING),
    (answer("AccessDenied", 403), Fault.DENIED),
    (answer("403", 403), Fault.DENIED),
    (answer("UnauthorizedOperation", 403), Fault.DENIED),
    (answer("ExpiredToken", 400), Fault.CREDENTIALS),
    (answer("InvalidClientTokenId", 403), Fault.CREDENTIALS),
    (answer("SignatureDoesNotMatch", 403), Fault.CREDENTIALS),
    (answer("RequestTimeTooSkewed", 403), Fault.SKEWED),
    (answer("AWS.SimpleQueueService.NonExistentQueue", 400), Fault.GONE),
    (answer("com.amazonaws.sqs#QueueDoesNotExist", 400), Fault.GONE),
    (answer("NoSuchBucket", 404), Fault.GONE),
    (answer("InvalidParameterValue", 400), Fault.OTHER),
    (boto.EndpointConnectionError(**ENDPOINT), Fault.PASSING),
    (boto.ReadTimeoutError(**ENDPOINT), Fault.PASSING),
    (boto.ConnectTimeoutError(**ENDPOINT), Fault.PASSING),
    (boto.ConnectionClosedError(**ENDPOINT), Fault.PASSING),
    (boto.ResponseStreamingError(error="cut"), Fault.PASSING),
    (urllib3.exceptions.ProtocolError("cut"), Fault.PASSING),
    (ConnectionResetError(), Fault.PASSING),
    (boto.NoCredentialsError(), Fault.CREDENTIALS),
    (boto.UnauthorizedSSOTokenError(), Fault.CREDENTIALS),
    (boto.ProfileNotFound(profile="x"), Fault.CREDENTIALS),
    (boto.NoRegionError(), Fault.NO_REGION),
    (boto.ParamValidationError(report="x"), Fault.OTHER),
]


@pytest.mark.parametrize(("error", "fault"), KINDS, ids=lambda value: getattr(value, "value", type(value).__name__))
def test_errors_are_told_apart(error, fault):
    assert classify(error) is fault
    assert is_aws_error(error)
    assert fault.retryable == (fault in (Fault.PASSING, Fault.THROTTLED))


@pytest.mark.parametrize("error", [error for error, _ in KINDS], ids=lambda error: type(error).__name__)
def test_every_error_has_a_sentence(error):
    text = explain(error)
    assert text[0].isupper()
    assert text.rstrip("`)").endswith((".", "?"))
    assert "{" not in text
    assert "None" not in text


def test_a_local_error_is_not_of_aws():
    assert not is_aws_error(FileNotFoundError())
    assert not is_aws_error(ValueError())
    assert (error_code(ValueError()), http_status(ValueError())) == ("", 0)


def test_a_denial_names_action_and_resource():
    message = (
        "User: arn:aws:iam::123456789012:user/ada is not authorized to perform: sqs:SendMessage on resource: "
        "arn:aws:sqs:us-east-1:123456789012:wren-default-tasks-v1-py311 because no identity-based policy allows it"
    )
    text = explain(answer("AccessDenied", 403, message))
    assert text.startswith("AWS denied sqs:SendMessage on arn:aws:sqs:us-east-1:123456789012:wren-default-tasks-v1")
    assert "--print-policies" in text


def test_a_bare_denial_names_the_operation():
    assert "AWS denied HeadObject." in explain(answer("403", 403, "Forbidden", "HeadObject"))


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (boto.NoCredentialsError(), "aws configure"),
        (boto.UnauthorizedSSOTokenError(), "aws sso login"),
        (boto.SSOTokenLoadError(error_msg="gone"), "aws sso login"),
        (answer("ExpiredToken", 400), "expired"),
        (boto.ProfileNotFound(profile="work"), "work"),
        (boto.NoRegionError(), "--region"),
        (answer("RequestTimeTooSkewed", 403), "clock"),
        (answer("Throttling", 400), "throttled"),
    ],
)
def test_the_sentence_gives_the_next_step(error, advice):
    assert advice in explain(error)
