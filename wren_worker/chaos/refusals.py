"""AWS's own words when it refuses, in the shapes that botocore parses into the right codes.

Source: "Error responses" of the S3 API reference and of the SQS, CloudWatch Logs and EC2 references, read 2026-11.
"""

from __future__ import annotations

import json
from email.utils import formatdate

from wren_worker.chaos.http import Response
from wren_worker.chaos.subject import Subject

__all__ = ["STATUSES", "refusal"]

#: Code -> (status of S3, status of SQS and Logs, text).
STATUSES: dict[str, tuple[int, int, str]] = {
    "AccessDenied": (403, 403, "Access Denied"),
    "ConditionalRequestConflict": (409, 409, "A conflicting conditional operation is in progress."),
    "ExpiredToken": (400, 403, "The provided token has expired."),
    "InternalError": (500, 500, "We encountered an internal error. Please try again."),
    "InvalidAccessKeyId": (403, 403, "The access key id does not exist in our records."),
    "NoSuchBucket": (404, 404, "The specified bucket does not exist."),
    "OverLimit": (400, 403, "Too many messages are in flight."),
    "PreconditionFailed": (412, 412, "At least one of the pre-conditions you specified did not hold"),
    "QueueDoesNotExist": (404, 400, "The specified queue does not exist."),
    "RequestThrottled": (503, 403, "Request is throttled."),
    "RequestTimeTooSkewed": (403, 403, "The difference between the request time and the current time is too large."),
    "RequestTimeout": (400, 408, "Your socket connection was not read from or written to within the timeout period."),
    "ServiceUnavailable": (503, 503, "Service is unable to handle request."),
    "SlowDown": (503, 503, "Please reduce your request rate."),
    "Throttling": (503, 400, "Rate exceeded"),
    "ThrottlingException": (503, 400, "Rate exceeded"),
}
#: How SQS words them for clients of its older protocol; botocore shows these.
_QUERY_CODES = {"QueueDoesNotExist": "AWS.SimpleQueueService.NonExistentQueue"}


def refusal(subject: Subject, code: str, *, status: int = 0) -> Response:
    """Return the refusal as the request's own service would word it; ``status`` 0 takes the code's usual one."""
    s3_status, other_status, text = STATUSES.get(code, (500, 500, code))
    headers = {"date": formatdate(usegmt=True), "x-amzn-requestid": "chaos"}
    if subject.service == "s3":
        status = status or s3_status
        body = f"<Error><Code>{code}</Code><Message>{text}</Message><RequestId>chaos</RequestId></Error>"
        headers["content-type"] = "application/xml"
        if subject.request.method == "HEAD":
            return Response(status, headers, to_head=True)
        return Response(status, headers, f'<?xml version="1.0" encoding="UTF-8"?>\n{body}'.encode())
    if subject.service in ("ec2", "iam", "sts"):
        headers["content-type"] = "text/xml"
        inner = f"<Error><Code>{code}</Code><Message>{text}</Message></Error>"
        outer = ("<Response><Errors>", "</Errors><RequestID>chaos</RequestID></Response>")
        if subject.service != "ec2":
            outer = ("<ErrorResponse>", "<RequestId>chaos</RequestId></ErrorResponse>")
        return Response(status or 503, headers, (outer[0] + inner + outer[1]).encode())
    headers["content-type"] = "application/x-amz-json-1.0"
    if subject.service == "sqs":
        side = "Receiver" if other_status >= 500 else "Sender"
        headers["x-amzn-query-error"] = f"{_QUERY_CODES.get(code, code)};{side}"
    body = json.dumps({"__type": f"com.amazonaws.{subject.service}#{code}", "message": text})
    return Response(status or other_status, headers, body.encode())
