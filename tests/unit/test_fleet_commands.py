"""What a user sees of ``setup`` when IAM is somebody else's."""

from __future__ import annotations

from click.testing import CliRunner

from wren_worker.cli import setup as module
from wren_worker.cli.main import main
from wren_worker.config import Names
from wren_worker.errors import FleetError
from wren_worker.protocol.provision import Kind


class Operator:
    """A fleet whose roles may not be created by the caller."""

    names = Names(fleet="night", account="123456789012", region="eu-west-1")
    place = "account 123456789012, region eu-west-1"

    def __init__(self):
        self.provisioner = self
        self.made = []

    def exists(self, resource):
        return resource in self.made

    def ensure(self, resource):
        if resource.kind in (Kind.ROLE, Kind.PROFILE):
            raise FleetError("AWS denied iam:CreateRole.", denied=True)
        self.made.append(resource)


def test_whoever_may_not_create_roles_gets_the_commands_for_somebody_who_may(monkeypatch):
    operator = Operator()
    monkeypatch.setattr(module, "operator_of", lambda context: operator)
    done = CliRunner().invoke(main, ["setup"])
    assert done.exit_code == 1
    assert "refused  IAM role           wren-night-instance" in done.stdout
    assert "made     launch template    wren-night" in done.stdout
    assert "AWS denied iam:CreateRole" in done.stderr
    commands = [line for line in done.stderr.splitlines() if line.startswith("aws iam ")]
    assert len(commands) == 4
    assert "sqs:ReceiveMessage" in commands[1]
    assert "Traceback" not in done.output
