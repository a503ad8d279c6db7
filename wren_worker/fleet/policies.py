"""The least that an instance and a client need, as IAM policies."""

from __future__ import annotations

import json
import shlex

from wren_worker.config import Names

__all__ = ["Policy", "client_policy", "instance_policy", "role_commands", "setup_policy", "trust_policy"]

Policy = dict[str, object]
#: Services that make a role of their own in an account when it first uses them.
_FIRST = ("spot.amazonaws.com", "ec2fleet.amazonaws.com")


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


def trust_policy() -> Policy:
    """Return who may take the instances' role: EC2, for them."""
    return _document({"Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"})


def role_commands(names: Names) -> list[str]:
    """Return what somebody who may create roles has to type, once for a fleet."""
    name = shlex.quote(names.instance_role)
    trust, policy = (
        shlex.quote(json.dumps(one, separators=(",", ":"))) for one in (trust_policy(), instance_policy(names))
    )
    return [
        f"aws iam create-role --role-name {name} --assume-role-policy-document {trust}",
        f"aws iam put-role-policy --role-name {name} --policy-name wren --policy-document {policy}",
        f"aws iam create-instance-profile --instance-profile-name {name}",
        f"aws iam add-role-to-instance-profile --instance-profile-name {name} --role-name {name}",
    ]


def _roles(names: Names) -> list[dict[str, object]]:
    iam = f"arn:aws:iam::{names.account}"
    return [
        {
            "Sid": "Role",
            "Action": [
                "iam:CreateRole",
                "iam:DeleteRole",
                "iam:GetRole",
                "iam:PutRolePolicy",
                "iam:DeleteRolePolicy",
                "iam:ListRolePolicies",
                "iam:PassRole",
            ],
            "Resource": f"{iam}:role/{names.instance_role}",
        },
        {
            "Sid": "Profile",
            "Action": [
                "iam:CreateInstanceProfile",
                "iam:DeleteInstanceProfile",
                "iam:GetInstanceProfile",
                "iam:AddRoleToInstanceProfile",
                "iam:RemoveRoleFromInstanceProfile",
            ],
            "Resource": f"{iam}:instance-profile/{names.instance_role}",
        },
    ]


def setup_policy(names: Names) -> Policy:
    """Return what ``setup`` and ``teardown`` need, beside what a client does."""
    ec2 = f"arn:aws:ec2:{names.region}:{names.account}"
    return _document(
        {
            "Sid": "Queues",
            "Action": [
                "sqs:CreateQueue",
                "sqs:DeleteQueue",
                "sqs:GetQueueUrl",
                "sqs:GetQueueAttributes",
                "sqs:SetQueueAttributes",
            ],
            "Resource": _queue(names, "*"),
        },
        {"Sid": "ListQueues", "Action": ["sqs:ListQueues", "logs:DescribeLogGroups"], "Resource": "*"},
        {
            "Sid": "Bucket",
            "Action": [
                "s3:CreateBucket",
                "s3:DeleteBucket",
                "s3:ListBucket",
                "s3:ListBucketMultipartUploads",
                "s3:PutBucketOwnershipControls",
                "s3:PutBucketPublicAccessBlock",
                "s3:PutLifecycleConfiguration",
            ],
            "Resource": f"arn:aws:s3:::{names.bucket}",
        },
        {
            "Sid": "Objects",
            "Action": ["s3:DeleteObject", "s3:AbortMultipartUpload"],
            "Resource": f"arn:aws:s3:::{names.bucket}/*",
        },
        {
            "Sid": "LogGroup",
            "Action": ["logs:CreateLogGroup", "logs:DeleteLogGroup", "logs:PutRetentionPolicy"],
            "Resource": f"arn:aws:logs:{names.region}:{names.account}:log-group:{names.log_group}*",
        },
        *_roles(names),
        {
            "Sid": "MakeTemplateAndGroup",
            "Action": [
                "ec2:CreateLaunchTemplate",
                "ec2:CreateLaunchTemplateVersion",
                "ec2:ModifyLaunchTemplate",
                "ec2:DeleteLaunchTemplate",
                "ec2:CreateSecurityGroup",
                "ec2:DeleteSecurityGroup",
                "ec2:CreateTags",
            ],
            "Resource": [f"{ec2}:{kind}/*" for kind in ("launch-template", "security-group", "vpc")],
        },
        {"Sid": "Look", "Action": "ec2:Describe*", "Resource": "*"},
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
            # what `doctor` looks at; without it, it says that it could not
            "Sid": "Doctor",
            "Action": [
                "servicequotas:GetServiceQuota",
                "iam:GetRole",
                "iam:GetInstanceProfile",
                "logs:DescribeLogGroups",
            ],
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
            # an account's first fleet and first spot instances need them
            "Sid": "FirstLaunch",
            "Action": "iam:CreateServiceLinkedRole",
            "Resource": [f"arn:aws:iam::{names.account}:role/aws-service-role/{one}/*" for one in _FIRST],
            "Condition": {"StringEquals": {"iam:AWSServiceName": list(_FIRST)}},
        },
        {
            "Sid": "ReadLogs",
            "Action": ["logs:FilterLogEvents", "logs:DescribeLogStreams", "logs:GetLogEvents"],
            "Resource": f"arn:aws:logs:{names.region}:{names.account}:log-group:{names.log_group}:*",
        },
    )
