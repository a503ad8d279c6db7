"""A fleet's resources: what there must be, made when missing, removed when told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from wren_worker.config import Names
from wren_worker.errors import FleetError
from wren_worker.fleet.policies import instance_policy, trust_policy
from wren_worker.protocol.provision import Kind, Provisioner, Resource

__all__ = ["PYTHONS", "Step", "plan", "setup", "teardown"]

#: The Python minors that a fleet has a task queue for.
PYTHONS = ("3.11", "3.12", "3.13", "3.14")

#: Source: SQS CreateQueue, read 2026-11: 14 days is the longest retention.
_LONGEST_RETENTION = 14 * 86400
#: Deliveries of bytes for which no result may be written; everything else ends at ``max_deliveries`` before.
_MAX_RECEIVE_COUNT = 30
_KEPT_DAYS = 15
_LOG_DAYS = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What became of one resource.

    ``what`` is "made", "there" (and brought up to date), "missing", "removed", "kept", "skipped" or "refused"; ``why``
    says more of the last two.
    """

    resource: Resource
    what: str
    why: str = ""


def plan(names: Names, pythons: Sequence[str] = PYTHONS) -> list[Resource]:
    """Return the fleet's resources, in the order in which they can be made."""
    attributes = {
        "MessageRetentionPeriod": _LONGEST_RETENTION,
        "VisibilityTimeout": 90,
        "MaximumMessageSize": 1_048_576,
        "SqsManagedSseEnabled": "true",
    }
    queues: list[Resource] = []
    for python in pythons:
        dead, tasks = names.dead_letter_queue(python), names.task_queue(python)
        queues.append(Resource(kind=Kind.QUEUE, name=dead, settings={"attributes": attributes}))
        settings = {"attributes": attributes, "dead_letter_queue": dead, "max_receive_count": _MAX_RECEIVE_COUNT}
        queues.append(Resource(kind=Kind.QUEUE, name=tasks, settings=settings))
    role = names.instance_role
    return [
        Resource(kind=Kind.BUCKET, name=names.bucket, settings={"lifecycle": _lifecycle()}),
        *queues,
        Resource(kind=Kind.LOG_GROUP, name=names.log_group, settings={"retention_days": _LOG_DAYS}),
        Resource(kind=Kind.ROLE, name=role, settings={"policy": instance_policy(names), "trust": trust_policy()}),
        Resource(kind=Kind.PROFILE, name=role, settings={"role": role}),
        Resource(
            kind=Kind.TEMPLATE,
            name=names.launch_template,
            settings={"data": _template(names), "tags": {"wren:fleet": names.fleet}},
        ),
        Resource(kind=Kind.GROUP, name=names.launch_template, settings={"fleet": names.fleet}),
    ]


def _lifecycle() -> dict[str, object]:
    """Return how long the bucket keeps things: a day longer than a message can wait in its queue."""
    rules: list[dict[str, object]] = [
        {
            "ID": f"wren-{prefix}",
            "Status": "Enabled",
            "Filter": {"Prefix": f"{prefix}/"},
            "Expiration": {"Days": _KEPT_DAYS},
        }
        for prefix in ("jobs", "results", "state", "refs")
    ]
    abort = {"DaysAfterInitiation": 1}
    rules.append(
        {
            "ID": "wren-unfinished-uploads",
            "Status": "Enabled",
            "Filter": {"Prefix": ""},
            "AbortIncompleteMultipartUpload": abort,
        }
    )
    return {"Rules": rules}


def _template(names: Names) -> dict[str, object]:
    """Return what every launch of the fleet shares; image, its root disk and user-data are each launch's own.

    Source: EC2 RequestLaunchTemplateData, read 2026-11: ``InstanceInitiatedShutdownBehavior`` defaults to stop, which
    would leave every instance that powers itself off behind, stopped and its disk billed.
    """
    return {
        "InstanceInitiatedShutdownBehavior": "terminate",
        "IamInstanceProfile": {"Name": names.instance_role},
        "MetadataOptions": {
            "HttpTokens": "required",
            "HttpPutResponseHopLimit": 1,
            "HttpEndpoint": "enabled",
            "InstanceMetadataTags": "enabled",
        },
        "TagSpecifications": [
            {"ResourceType": "instance", "Tags": [{"Key": "wren:fleet", "Value": names.fleet}]},
        ],
    }


def setup(
    provisioner: Provisioner, names: Names, *, pythons: Sequence[str] = PYTHONS, dry_run: bool = False
) -> Iterator[Step]:
    """Make what is missing and bring the rest up to date; yield a step per resource. Safe to repeat.

    Args:
        provisioner: Does it.
        names: The fleet.
        pythons: Python minors to have task queues for.
        dry_run: Only look.

    Raises:
        FleetError: AWS refused one; those before it are made. A role or profile that may not be made is a step
            "refused" instead, and the rest is made.
    """
    for resource in plan(names, pythons):
        yield _look(provisioner, resource) if dry_run else _make(provisioner, resource)


def _look(provisioner: Provisioner, resource: Resource) -> Step:
    try:
        return Step(resource=resource, what="there" if provisioner.exists(resource) else "missing")
    except FleetError as error:
        if not _may_be_others(resource, error):
            raise
        return Step(resource=resource, what="refused", why=str(error))


def _make(provisioner: Provisioner, resource: Resource) -> Step:
    try:
        there = provisioner.exists(resource)
        provisioner.ensure(resource)
    except FleetError as error:
        if not _may_be_others(resource, error):
            raise
        return Step(resource=resource, what="refused", why=str(error))
    if resource.kind is Kind.GROUP and not there and not provisioner.exists(resource):
        why = "there is no default VPC; a launch with --subnet makes it there"
        return Step(resource=resource, what="skipped", why=why)
    return Step(resource=resource, what="there" if there else "made")


def _may_be_others(resource: Resource, error: FleetError) -> bool:
    """Return whether somebody else may have to make it: many may do all the rest and nothing on IAM."""
    return resource.kind in (Kind.ROLE, Kind.PROFILE) and getattr(error, "denied", False)


def teardown(provisioner: Provisioner, names: Names, *, last_fleet: bool, dry_run: bool = False) -> Iterator[Step]:
    """Remove everything of the fleet; yield a step per resource that was there.

    Args:
        provisioner: Does it.
        names: The fleet.
        last_fleet: Whether the log group, which all fleets share, may go too.
        dry_run: Only look.

    Raises:
        FleetError: AWS refused one; those before it are gone.
    """
    replies = [Resource(kind=Kind.QUEUE, name=name) for name in provisioner.queues(names.reply_queue(""))]
    # the security group last: it stays in use until the last instance is gone
    *others, group = plan(names)
    for resource in [*replies, *reversed(others), group]:
        if not provisioner.exists(resource):
            continue
        if resource.kind is Kind.LOG_GROUP and not last_fleet:
            yield Step(resource=resource, what="kept")
            continue
        if not dry_run:
            provisioner.remove(resource)
        yield Step(resource=resource, what="there" if dry_run else "removed")
