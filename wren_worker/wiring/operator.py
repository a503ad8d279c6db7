"""The operator's side: a fleet with everything that commands need, built from settings."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence

from wren_worker.aws.ec2 import Ec2Machines
from wren_worker.aws.images import Ec2Images
from wren_worker.aws.logs_reader import CloudWatchReader
from wren_worker.aws.network import Network
from wren_worker.aws.probes import AwsProbes
from wren_worker.aws.provision import AwsProvisioner
from wren_worker.aws.s3 import S3Store
from wren_worker.aws.session import Aws
from wren_worker.aws.sqs import SqsTaskQueue
from wren_worker.clock import SystemClock
from wren_worker.config import Names, Settings, this_python
from wren_worker.errors import FleetError
from wren_worker.fleet.doctor import Doctor
from wren_worker.fleet.launch import launch
from wren_worker.fleet.prices import Price, price_table
from wren_worker.fleet.reap import Sight, reap
from wren_worker.fleet.roster import Row, roster, why_nothing_runs
from wren_worker.fleet.spec import Launch
from wren_worker.protocol.ports import LaunchReport, QueueDepth

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
        tell: Takes a line for people when something takes its time.

    Raises:
        ConfigError: There is no region, or there are no valid credentials.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        exports: Mapping[str, str] | None = None,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        # boto3 itself reads AWS_DEFAULT_REGION only; every other tool of AWS's reads this one too
        region = exports["AWS_DEFAULT_REGION"] if exports else settings.region or os.environ.get("AWS_REGION", "")
        self.aws = Aws(region or None, settings.profile or None, exports=exports)
        self.names = Names(fleet=settings.fleet_name, account=self.aws.account, region=self.aws.region)
        self.python = this_python()
        self.clock = SystemClock()
        self.machines = Ec2Machines(self.aws, self.names.launch_template, fleet=self.names.fleet)
        self.network = Network(self.aws, group=self.names.launch_template, fleet=self.names.fleet)
        self.images = Ec2Images(self.aws)
        self.store = S3Store(self.aws, self.names.bucket)
        self.task_queue = SqsTaskQueue(self.aws, self.names.task_queue(self.python))
        self.provisioner = AwsProvisioner(self.aws, tell=tell, clock=self.clock)
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

    def launch(self, spec: Launch, *, launch_id: str, anyway: bool = False) -> LaunchReport:
        """Start instances; see ``fleet.launch.launch``."""
        return launch(
            self.machines,
            spec,
            self.names,
            python=self.python,
            launch_id=launch_id,
            store=self.store,
            anyway=anyway,
        )

    def prices(self, types: Sequence[str]) -> list[Price]:
        """Return what instance types cost, as far as that is known; costs nobody a launch when it is not."""
        try:
            known = self.machines.describe_types(types)
        except FleetError:
            known = []
        return price_table(types, known, self.machines.spot_prices(types))

    def open_groups(self, group_ids: Sequence[str]) -> list[str]:
        """Return a remark for each security group that lets something in."""
        found = self.network.open_groups(group_ids)
        return [f"security group {one} lets something in, and instances need nothing of that" for one in found]

    def doctor(self) -> Doctor:
        """Return what says why nothing runs."""
        return Doctor(
            names=self.names,
            python=self.python,
            machines=self.machines,
            store=self.store,
            provisioner=self.provisioner,
            probes=AwsProbes(self.aws, self.network),
            depth=lambda name: SqsTaskQueue(self.aws, name).depth(),
            timestamp=self.clock.timestamp(),
        )

    def reap(self) -> list[Sight]:
        """Look for instances that should have ended themselves; strike them, end those struck before."""
        return list(reap(self.machines, self.store, self.names.fleet, timestamp=self.clock.timestamp()))

    def is_last_fleet(self) -> bool:
        """Return whether no other fleet of this account and region has a task queue, so that shared things may go."""
        ours = f"wren-{self.names.fleet}-tasks-"
        queues = self.provisioner.queues("wren-")
        return all(name.startswith(ours) for name in queues if "-tasks-v" in name)

    def depth(self) -> QueueDepth:
        """Return how many messages wait and how many are held."""
        return self.task_queue.depth()

    def why_nothing_runs(self, *, starts_own: bool = False) -> str:
        """Return one sentence for somebody whose calls do not come back, "" when there is nothing to say."""
        return why_nothing_runs(
            self.roster(),
            self.depth(),
            fleet=self.names.fleet,
            python=self.python,
            place=self.place,
            starts_own=starts_own,
        )
