"""A fleet's resources as data, and the port that makes and removes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

__all__ = ["Kind", "Provisioner", "Resource"]


class Kind(Enum):
    """What a resource is; the values are for people."""

    BUCKET = "S3 bucket"
    QUEUE = "SQS queue"
    LOG_GROUP = "log group"
    ROLE = "IAM role"
    PROFILE = "instance profile"
    TEMPLATE = "launch template"


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """One thing of a fleet in AWS.

    ``settings`` is what its kind needs: a queue's dead-letter queue, a role's policies, a template's data.
    """

    kind: Kind
    name: str
    settings: Mapping[str, object] = field(default_factory=dict)


class Provisioner(Protocol):
    """Makes and removes resources."""

    def exists(self, resource: Resource) -> bool:
        """Return whether it is there."""
        ...

    def ensure(self, resource: Resource) -> None:
        """Make it, or bring what is there up to date; safe to repeat.

        Raises:
            FleetError: AWS refused; says why.
        """
        ...

    def remove(self, resource: Resource) -> None:
        """Remove it; what is not there is no error.

        Raises:
            FleetError: AWS refused; says why.
        """
        ...

    def queues(self, prefix: str) -> list[str]:
        """Return the names of queues that start with ``prefix``."""
        ...
