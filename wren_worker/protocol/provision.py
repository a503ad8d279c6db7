"""A fleet's resources as data, and the port that makes and removes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

__all__ = ["Kind", "Probes", "Provisioner", "Resource"]


class Kind(Enum):
    """What a resource is; the values are for people."""

    BUCKET = "S3 bucket"
    QUEUE = "SQS queue"
    LOG_GROUP = "log group"
    ROLE = "IAM role"
    PROFILE = "instance profile"
    TEMPLATE = "launch template"
    GROUP = "security group"


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


class Probes(Protocol):
    """Looks at what a launch depends on, and makes nothing. Each raises FleetError when AWS does not say.

    ``denied`` is true in the error when looking is not allowed, which says nothing about what would have been seen.
    """

    def identity(self) -> str:
        """Return whom AWS takes the caller for."""
        ...

    def network(self) -> str:
        """Return in one line where instances would be put, by default.

        Raises:
            FleetError: Nowhere.
        """
        ...

    def profile_roles(self, name: str) -> int:
        """Return how many roles an instance profile holds; one is right."""
        ...

    def service_role(self, service: str) -> bool:
        """Return whether a service ("spot", "ec2fleet") has its role in the account."""
        ...

    def vcpu_quota(self, *, spot: bool) -> float:
        """Return how many vCPUs of standard types may run at once."""
        ...
