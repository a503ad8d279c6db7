"""The operator's side: a fleet with everything that commands need, built from settings."""

from __future__ import annotations

import os
from collections.abc import Mapping

from wren_worker.aws.ec2 import Ec2Machines
from wren_worker.aws.images import Ec2Images
from wren_worker.aws.logs_reader import CloudWatchReader
from wren_worker.aws.provision import AwsProvisioner
from wren_worker.aws.s3 import S3Store
from wren_worker.aws.session import Aws
from wren_worker.aws.sqs import SqsTaskQueue
from wren_worker.clock import SystemClock
from wren_worker.config import Names, Settings, this_python
from wren_worker.fleet.roster import Row, roster, why_nothing_runs
from wren_worker.protocol.ports import QueueDepth

__all__ = ["Operator", "region_of"]


def region_of(settings: Settings) -> str:
    """Return the region that commands work in; asks nobody.

    Raises:
        ConfigError: None is set anywhere.
    """
    # boto3 itself reads AWS_DEFAULT_REGION only; every other tool of AWS's reads this one too
    return Aws(settings.region or os.environ.get("AWS_REGION"), settings.profile).region


class Operator:
    """One fleet, as somebody with AWS credentials sees it. Makes its clients when they are first used.

    Args:
        settings: Names the fleet, and region and profile where boto3 shall not choose.
        exports: A sandbox's endpoint and keys, when they are not in the environment.

    Raises:
        ConfigError: There is no region, or there are no valid credentials.
    """

    def __init__(self, settings: Settings, *, exports: Mapping[str, str] | None = None) -> None:
        # boto3 itself reads AWS_DEFAULT_REGION only; every other tool of AWS's reads this one too
        region = exports["AWS_DEFAULT_REGION"] if exports else settings.region or os.environ.get("AWS_REGION", "")
        self.aws = Aws(region or None, settings.profile or None, exports=exports)
        self.names = Names(fleet=settings.fleet_name, account=self.aws.account, region=self.aws.region)
        self.python = this_python()
        self.clock = SystemClock()
        self.machines = Ec2Machines(self.aws, self.names.launch_template)
        self.images = Ec2Images(self.aws)
        self.store = S3Store(self.aws, self.names.bucket)
        self.task_queue = SqsTaskQueue(self.aws, self.names.task_queue(self.python))
        self.provisioner = AwsProvisioner(self.aws)
        self.logs = CloudWatchReader(self.aws, self.names.log_group)

    @property
    def place(self) -> str:
        """Return account and region, for people."""
        return f"account {self.names.account}, region {self.names.region}"

    def roster(self, *, alive_only: bool = True) -> list[Row]:
        """Return the fleet's instances, oldest first."""
        return roster(
            self.machines, self.store, self.names.fleet, timestamp=self.clock.timestamp(), alive_only=alive_only
        )

    def is_last_fleet(self) -> bool:
        """Return whether no other fleet of this account and region has a task queue, so that shared things may go."""
        ours = f"wren-{self.names.fleet}-tasks-"
        queues = self.provisioner.queues("wren-")
        return all(name.startswith(ours) for name in queues if "-tasks-v" in name)

    def depth(self) -> QueueDepth:
        """Return how many messages wait and how many are held."""
        return self.task_queue.depth()

    def why_nothing_runs(self) -> str:
        """Return one sentence for somebody whose calls do not come back, "" when there is nothing to say."""
        return why_nothing_runs(
            self.roster(), self.depth(), fleet=self.names.fleet, python=self.python, place=self.place
        )
