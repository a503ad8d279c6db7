"""The least that an instance and a client need, as IAM policies."""

from __future__ import annotations

from wren_worker.config import Names

__all__ = ["Policy", "client_policy", "instance_policy"]

Policy = dict[str, object]


def _document(*statements: dict[str, object]) -> Policy:
    return {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", **statement} for statement in statements]}


def _queue(names: Names, pattern: str) -> str:
    return f"arn:aws:sqs:{names.region}:{names.account}:wren-{names.fleet}-{pattern}"


def instance_policy(names: Names) -> Policy:
    """Return what an instance's role may do. Nothing on EC2 at all: an instance ends by powering itself off."""
    bucket = f"arn:aws:s3:::{names.bucket}"
    return _document(
        {
            "Sid": "TakeWork",
            "Action": [
                "sqs:ReceiveMessage",
                "sqs:DeleteMessage",
                "sqs:ChangeMessageVisibility",
                "sqs:GetQueueAttributes",
                "sqs:GetQueueUrl",
            ],
            "Resource": _queue(names, "tasks-*"),
        },
        {"Sid": "TellClients", "Action": "sqs:SendMessage", "Resource": _queue(names, "reply-*")},
        {
            "Sid": "ReadJobs",
            "Action": "s3:GetObject",
            "Resource": [f"{bucket}/{prefix}/*" for prefix in ("jobs", "results", "runtimes", "wheels", "refs")],
        },
        {
            "Sid": "WriteOutcomes",
            "Action": ["s3:PutObject", "s3:AbortMultipartUpload"],
            "Resource": [f"{bucket}/results/*", f"{bucket}/state/*"],
        },
        {
            # a chunk that was delivered before: which of its calls have outcomes of their own?
            "Sid": "SeeOutcomes",
            "Action": "s3:ListBucket",
            "Resource": bucket,
            "Condition": {"StringLike": {"s3:prefix": "results/*"}},
        },
        {
            "Sid": "Log",
            "Action": ["logs:CreateLogStream", "logs:PutLogEvents"],
            "Resource": f"arn:aws:logs:{names.region}:{names.account}:log-group:{names.log_group}:*",
        },
    )


def client_policy(names: Names) -> Policy:
    """Return what somebody needs to send jobs, launch instances and read logs, once the fleet is set up."""
    bucket = f"arn:aws:s3:::{names.bucket}"
    ec2 = f"arn:aws:ec2:{names.region}:{names.account}"
    template_of_ours = {"StringEquals": {"aws:ResourceTag/wren:fleet": names.fleet}}
    return _document(
        {
            "Sid": "SendWork",
            "Action": ["sqs:SendMessage", "sqs:GetQueueUrl", "sqs:GetQueueAttributes"],
            "Resource": _queue(names, "tasks-*"),
        },
        {
            "Sid": "OwnReplyQueue",
            "Action": [
                "sqs:CreateQueue",
                "sqs:DeleteQueue",
                "sqs:ReceiveMessage",
                "sqs:DeleteMessage",
                "sqs:GetQueueUrl",
                "sqs:TagQueue",
            ],
            "Resource": _queue(names, "reply-*"),
        },
        {
            "Sid": "StoreJobsReadOutcomes",
            "Action": ["s3:PutObject", "s3:GetObject", "s3:AbortMultipartUpload"],
            "Resource": [f"{bucket}/{prefix}/*" for prefix in ("jobs", "results", "refs", "wheels", "runtimes")],
        },
        {"Sid": "ReadState", "Action": "s3:GetObject", "Resource": f"{bucket}/state/*"},
        {"Sid": "ListBucket", "Action": "s3:ListBucket", "Resource": bucket},
        {
            "Sid": "SeeInstances",
            "Action": ["ec2:Describe*", "ec2:GetConsoleOutput"],
            "Resource": "*",
        },
        {
            "Sid": "Launch",
            "Action": ["ec2:CreateFleet", "ec2:RunInstances"],
            "Resource": "*",
        },
        {
            "Sid": "PrepareLaunch",
            "Action": "ec2:CreateLaunchTemplateVersion",
            "Resource": f"{ec2}:launch-template/*",
            "Condition": template_of_ours,
        },
        {
            "Sid": "TagAtLaunch",
            "Action": "ec2:CreateTags",
            "Resource": "*",
            "Condition": {"StringEquals": {"ec2:CreateAction": ["CreateFleet", "RunInstances"]}},
        },
        {
            "Sid": "EndOurs",
            "Action": ["ec2:TerminateInstances", "ec2:CreateTags"],
            "Resource": f"{ec2}:instance/*",
            "Condition": {"StringEquals": {"ec2:ResourceTag/wren:fleet": names.fleet}},
        },
        {
            "Sid": "PassRole",
            "Action": "iam:PassRole",
            "Resource": f"arn:aws:iam::{names.account}:role/{names.instance_role}",
            "Condition": {"StringEquals": {"iam:PassedToService": "ec2.amazonaws.com"}},
        },
        {
            # an account's first spot instances need it
            "Sid": "FirstSpot",
            "Action": "iam:CreateServiceLinkedRole",
            "Resource": f"arn:aws:iam::{names.account}:role/aws-service-role/spot.amazonaws.com/*",
            "Condition": {"StringEquals": {"iam:AWSServiceName": "spot.amazonaws.com"}},
        },
        {
            "Sid": "ReadLogs",
            "Action": ["logs:FilterLogEvents", "logs:DescribeLogStreams", "logs:GetLogEvents"],
            "Resource": f"arn:aws:logs:{names.region}:{names.account}:log-group:{names.log_group}:*",
        },
    )
