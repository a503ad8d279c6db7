"""Makes and removes a fleet's resources: fills ``provision.Provisioner``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

from wren_worker.aws.errors import Fault, classify, error_code, explain, is_aws_error
from wren_worker.aws.network import Network
from wren_worker.aws.removal import remove_bucket, remove_profile, remove_queue, remove_role
from wren_worker.aws.retry import Backoff
from wren_worker.aws.session import Aws
from wren_worker.clock import Clock, SystemClock
from wren_worker.errors import FleetError
from wren_worker.protocol.provision import Kind, Resource

__all__ = ["AwsProvisioner"]

_MISSING = {
    "404",
    "NoSuchBucket",
    "NoSuchEntity",
    "AWS.SimpleQueueService.NonExistentQueue",
    "QueueDoesNotExist",
    "ResourceNotFoundException",
    "InvalidLaunchTemplateName.NotFoundException",
    "InvalidLaunchTemplateId.NotFound",
}
_THERE = {
    "BucketAlreadyOwnedByYou",
    "EntityAlreadyExists",
    "ResourceAlreadyExistsException",
    "InvalidLaunchTemplateName.AlreadyExistsException",
}
#: What passes by itself: what to wait for, and for how long. Source: SQS CreateQueue, read 2026-11: a name can be used
#: again 60 s after its queue was deleted. A security group stays in use until the last instance in it is gone.
_DELETED_LATELY = ("AWS.SimpleQueueService.QueueDeletedRecently", "QueueDeletedRecently")
_QUEUE_TIMEOUT, _GROUP_TIMEOUT = 70.0, 180.0


class AwsProvisioner:
    """One method per kind and verb; every AWS error becomes a FleetError that names the resource.

    Args:
        aws: The identity to act as.
        tell: Takes a line for people when something takes its time.
        clock: Waits.
    """

    def __init__(self, aws: Aws, *, tell: Callable[[str], None] = lambda _: None, clock: Clock | None = None) -> None:
        self._aws = aws
        self._tell = tell
        self._clock = clock or SystemClock()

    def exists(self, resource: Resource) -> bool:
        """Return whether it is there."""
        try:
            return self._find(resource)
        except Exception as error:
            if is_aws_error(error) and error_code(error) in _MISSING:
                return False
            raise _told(resource, "look for", error) from error

    def ensure(self, resource: Resource) -> None:
        """Make it, or bring what is there up to date.

        Raises:
            FleetError: AWS refused; says why.
        """
        makers: dict[Kind, Callable[[Resource], None]] = {
            Kind.BUCKET: self._make_bucket,
            Kind.QUEUE: self._make_queue,
            Kind.LOG_GROUP: self._make_log_group,
            Kind.ROLE: self._make_role,
            Kind.PROFILE: self._make_profile,
            Kind.TEMPLATE: self._make_template,
            Kind.GROUP: self._make_group,
        }
        try:
            makers[resource.kind](resource)
        except Exception as error:
            raise _told(resource, "make", error) from error

    def remove(self, resource: Resource) -> None:
        """Remove it; what is not there is no error.

        Raises:
            FleetError: AWS refused; says why.
        """
        if resource.kind is Kind.GROUP:
            self._remove_groups(resource)
            return
        removers: dict[Kind, Callable[[str], None]] = {
            Kind.BUCKET: lambda name: remove_bucket(self._aws, name),
            Kind.QUEUE: lambda name: remove_queue(self._aws, name),
            Kind.LOG_GROUP: lambda name: _drop(self._aws.logs().delete_log_group(logGroupName=name)),
            Kind.ROLE: lambda name: remove_role(self._aws, name),
            Kind.PROFILE: lambda name: remove_profile(self._aws, name),
            Kind.TEMPLATE: lambda name: _drop(self._aws.ec2().delete_launch_template(LaunchTemplateName=name)),
        }
        try:
            removers[resource.kind](resource.name)
        except Exception as error:
            if is_aws_error(error) and error_code(error) in _MISSING:
                return
            raise _told(resource, "remove", error) from error

    def queues(self, prefix: str) -> list[str]:
        """Return the names of queues that start with ``prefix``.

        Raises:
            FleetError: AWS refused; says why.
        """
        try:
            pages = self._aws.sqs().get_paginator("list_queues").paginate(QueueNamePrefix=prefix)
            return [url.rpartition("/")[2] for page in pages for url in page.get("QueueUrls", [])]
        except Exception as error:
            raise _told(Resource(kind=Kind.QUEUE, name=f"{prefix}*"), "list", error) from error

    def _find(self, resource: Resource) -> bool:
        aws, name = self._aws, resource.name
        match resource.kind:
            case Kind.BUCKET:
                aws.s3().head_bucket(Bucket=name)
            case Kind.QUEUE:
                aws.sqs().get_queue_url(QueueName=name)
            case Kind.LOG_GROUP:
                groups = aws.logs().describe_log_groups(logGroupNamePrefix=name)["logGroups"]
                return any(group.get("logGroupName") == name for group in groups)
            case Kind.ROLE:
                aws.iam().get_role(RoleName=name)
            case Kind.PROFILE:
                aws.iam().get_instance_profile(InstanceProfileName=name)
            case Kind.TEMPLATE:
                aws.ec2().describe_launch_templates(LaunchTemplateNames=[name])
            case Kind.GROUP:
                return bool(self._network(resource).groups())
        return True

    def _network(self, resource: Resource) -> Network:
        return Network(self._aws, group=resource.name, fleet=str(resource.settings["fleet"]))

    def _persist(self, call: Callable[[], object], codes: tuple[str, ...], *, timeout: float, waiting: str) -> None:
        """Try until AWS does not answer one of ``codes`` any more, saying what is waited for."""
        tries = Backoff(self._clock, timeout=timeout, base_time=4.0, cap_time=8.0)
        told = False
        while True:
            try:
                call()
                return
            except Exception as error:
                if not (is_aws_error(error) and error_code(error) in codes):
                    raise
                if not told:
                    self._tell(waiting)
                    told = True
                if not tries.wait():
                    raise

    # --- making -------------------------------------------------------------------------------------------------------

    def _make_bucket(self, resource: Resource) -> None:
        s3, name = self._aws.s3(), resource.name
        request: dict[str, Any] = {"Bucket": name, "ObjectOwnership": "BucketOwnerEnforced"}
        if self._aws.region != "us-east-1":  # the one region that must not be named
            request["CreateBucketConfiguration"] = {"LocationConstraint": self._aws.region}
        if not self.exists(resource):
            _unless_there(lambda: s3.create_bucket(**request))
        s3.put_public_access_block(
            Bucket=name,
            PublicAccessBlockConfiguration={
                "BlockPublicAcls": True,
                "IgnorePublicAcls": True,
                "BlockPublicPolicy": True,
                "RestrictPublicBuckets": True,
            },
        )
        s3.put_bucket_lifecycle_configuration(
            Bucket=name, LifecycleConfiguration=_as_any(resource.settings["lifecycle"])
        )

    def _make_queue(self, resource: Resource) -> None:
        sqs = self._aws.sqs()
        attributes = {str(k): str(v) for k, v in _as_any(resource.settings["attributes"]).items()}
        dead = resource.settings.get("dead_letter_queue")
        if dead:
            url = sqs.get_queue_url(QueueName=str(dead))["QueueUrl"]
            arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
            most = resource.settings["max_receive_count"]
            attributes["RedrivePolicy"] = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": most})
        if self.exists(resource):
            url = sqs.get_queue_url(QueueName=resource.name)["QueueUrl"]
            sqs.set_queue_attributes(QueueUrl=url, Attributes=_as_any(attributes))
        else:
            self._persist(
                lambda: sqs.create_queue(QueueName=resource.name, Attributes=_as_any(attributes)),
                _DELETED_LATELY,
                timeout=_QUEUE_TIMEOUT,
                waiting=f"a queue {resource.name} was deleted less than 60 s ago, and SQS keeps its name: waiting",
            )

    def _make_log_group(self, resource: Resource) -> None:
        logs = self._aws.logs()
        _unless_there(lambda: logs.create_log_group(logGroupName=resource.name))
        logs.put_retention_policy(
            logGroupName=resource.name, retentionInDays=_as_any(resource.settings["retention_days"])
        )

    def _make_role(self, resource: Resource) -> None:
        iam = self._aws.iam()
        _unless_there(
            lambda: iam.create_role(
                RoleName=resource.name,
                AssumeRolePolicyDocument=json.dumps(resource.settings["trust"]),
                Description="What an instance of a wren fleet may do",
            )
        )
        iam.put_role_policy(
            RoleName=resource.name, PolicyName="wren", PolicyDocument=json.dumps(resource.settings["policy"])
        )

    def _make_profile(self, resource: Resource) -> None:
        iam, name = self._aws.iam(), resource.name
        _unless_there(lambda: iam.create_instance_profile(InstanceProfileName=name))
        if not iam.get_instance_profile(InstanceProfileName=name)["InstanceProfile"]["Roles"]:
            _unless_there(
                lambda: iam.add_role_to_instance_profile(
                    InstanceProfileName=name, RoleName=str(resource.settings["role"])
                )
            )

    def _make_template(self, resource: Resource) -> None:
        ec2, name = self._aws.ec2(), resource.name
        data, tags = _as_any(resource.settings["data"]), _as_any(resource.settings["tags"])
        described = hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:32]
        found = [{"Key": key, "Value": value} for key, value in tags.items()]
        if not self.exists(resource):
            ec2.create_launch_template(
                LaunchTemplateName=name,
                VersionDescription=described,
                LaunchTemplateData=data,
                TagSpecifications=[{"ResourceType": "launch-template", "Tags": _as_any(found)}],
            )
            return
        default = ec2.describe_launch_template_versions(LaunchTemplateName=name, Versions=["$Default"])
        if default["LaunchTemplateVersions"][0].get("VersionDescription") == described:
            return
        # made by another version of this package, or changed by hand: launches start from the default version
        made = ec2.create_launch_template_version(
            LaunchTemplateName=name, VersionDescription=described, LaunchTemplateData=data
        )["LaunchTemplateVersion"]
        ec2.modify_launch_template(LaunchTemplateName=name, DefaultVersion=str(made["VersionNumber"]))
        ec2.create_tags(Resources=[made["LaunchTemplateId"]], Tags=_as_any(found))

    def _make_group(self, resource: Resource) -> None:
        network = self._network(resource)
        vpc_id = network.default_vpc()
        if vpc_id:  # elsewhere a launch makes it, in the VPC of its subnets
            network.group(vpc_id)

    def _remove_groups(self, resource: Resource) -> None:
        try:
            for group in self._network(resource).groups():
                group_id = group["GroupId"]
                self._persist(
                    lambda group_id=group_id: self._aws.ec2().delete_security_group(GroupId=group_id),  # type: ignore[misc]
                    ("DependencyViolation",),
                    timeout=_GROUP_TIMEOUT,
                    waiting=f"security group {resource.name}: waiting until the instances in it are gone",
                )
        except Exception as error:
            raise _told(resource, "remove", error) from error


def _as_any(value: Any) -> Any:
    """Pass plain data to a boto3 request whose types are narrower than ours."""
    return value


def _drop(_: object) -> None:
    return None


def _unless_there(make: Callable[[], object]) -> None:
    try:
        make()
    except Exception as error:
        if not (is_aws_error(error) and error_code(error) in _THERE):
            raise


def _told(resource: Resource, verb: str, error: BaseException) -> BaseException:
    if not is_aws_error(error):
        return error
    text = f"AWS did not let us {verb} the {resource.kind.value} {resource.name}: {explain(error)}"
    if error_code(error) in _DELETED_LATELY:
        text = (
            f"The {resource.kind.value} {resource.name} was deleted less than 60 s ago, and SQS keeps its name "
            "for so long. Wait a minute and run setup again."
        )
    denied = classify(error) is Fault.DENIED
    return FleetError(text, kind=resource.kind.value, name=resource.name, denied=denied)
