"""The first hour on a real account: each stumble as AWS words it, the sentence and the mend that a user gets."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
from botocore.stub import ANY, Stubber

from wren_worker.aws.ec2 import Ec2Machines
from wren_worker.aws.network import Network
from wren_worker.aws.provision import AwsProvisioner
from wren_worker.aws.session import Aws
from wren_worker.config import Names
from wren_worker.errors import ConfigError, FleetError
from wren_worker.fleet.setup import plan, setup
from wren_worker.protocol.ports import InstanceRequest
from wren_worker.protocol.provision import Kind
from wren_worker.testing import FakeClock

ACCOUNT = "123456789012"
NAMES = Names(fleet="default", account=ACCOUNT, region="us-east-1")
EXPORTS = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y"}


@pytest.fixture
def aws():
    return Aws("us-east-1", account=ACCOUNT, exports=EXPORTS)


# --- credentials and region -------------------------------------------------------------------------------------------


def test_no_region(isolated):
    with pytest.raises(ConfigError, match=r"No AWS region is set. Pass --region") as caught:
        Aws(None, account=ACCOUNT).ec2()
    assert "demo" in str(caught.value)  # what works without an account


def test_no_credentials(isolated, monkeypatch):
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(ConfigError, match=r"No AWS credentials were found. Run `aws configure`"):
        assert Aws("us-east-1").account


def test_an_sso_session_that_has_expired(isolated, monkeypatch):
    folder = isolated / ".aws"
    folder.mkdir()
    (folder / "config").write_text(
        "[sso-session corp]\nsso_start_url = https://corp.example/start\nsso_region = us-east-1\n"
        "[profile work]\nsso_session = corp\nsso_account_id = 123456789012\nsso_role_name = dev\nregion = us-east-1\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(folder / "config"))
    with pytest.raises(ConfigError, match=r"sign-in session has expired or is missing .* Run `aws sso login` again"):
        assert Aws(None, "work").account


# --- launching --------------------------------------------------------------------------------------------------------

SUBNET = {"SubnetId": "subnet-a", "VpcId": "vpc-1", "AvailabilityZone": "us-east-1a", "State": "available"}
REQUEST = InstanceRequest(
    fleet="default",
    count=4,
    instance_types=("c5.xlarge",),
    image_id="ami-1",
    user_data="#cloud-config\n",
    python="3.11",
    version="1",
    launch_id="l",
    client_token="t",
)


def route_tables(way):
    routes = [{"DestinationCidrBlock": "0.0.0.0/0", "State": "active", **way}] if way else []
    return {"RouteTables": [{"Associations": [{"Main": True}], "Routes": routes}]}


@contextmanager
def launching(aws, *answers, clock=None):
    """Give a machine park whose EC2 has prepared everything and answers CreateFleet so."""
    ec2 = aws.ec2()
    with Stubber(ec2) as stub:
        stub.add_response("describe_vpcs", {"Vpcs": [{"VpcId": "vpc-1"}]})
        stub.add_response("describe_subnets", {"Subnets": [SUBNET]})
        stub.add_response("describe_route_tables", route_tables({"GatewayId": "igw-1"}))
        stub.add_response("describe_vpc_endpoints", {"VpcEndpoints": []})
        stub.add_response("describe_security_groups", {"SecurityGroups": [{"GroupId": "sg-1"}]})
        stub.add_response(
            "describe_launch_template_versions",
            {"LaunchTemplateVersions": [{"VersionNumber": 1, "DefaultVersion": True}]},
        )
        stub.add_response("describe_images", {"Images": []})
        stub.add_response("create_launch_template_version", {"LaunchTemplateVersion": {"VersionNumber": 2}})
        for answer in answers:
            if isinstance(answer, tuple):
                code, text, status = answer
                stub.add_client_error("create_fleet", code, text, http_status_code=status)
            else:
                stub.add_response("create_fleet", answer)
        yield Ec2Machines(aws, "wren-default", fleet="default", clock=clock or FakeClock())
        stub.assert_no_pending_responses()


def fleet_answer(n_started, *errors):
    return {
        "Instances": [{"InstanceIds": [f"i-{number}" for number in range(n_started)]}] if n_started else [],
        "Errors": [{"ErrorCode": code, "ErrorMessage": text} for code, text in errors],
    }


def test_an_instance_profile_that_is_not_visible_yet_is_waited_for(aws):
    clock = FakeClock()
    invisible = "Value (wren-default-instance) for parameter iamInstanceProfile.name is invalid."
    refused = fleet_answer(0, ("InvalidParameterValue", f"{invisible} Invalid IAM Instance Profile name"))
    with launching(aws, refused, refused, fleet_answer(4), clock=clock) as machines:
        assert len(machines.launch(REQUEST).instance_ids) == 4
    assert len(clock.sleeps) == 2


def test_a_service_linked_role_that_is_missing_and_may_not_be_made(aws):
    text = "The provided credentials do not have permission to create the service-linked role for EC2 Spot Instances."
    code = "AuthFailure.ServiceLinkedRoleCreationNotPermitted"
    mend = r"aws iam create-service-linked-role --aws-service-name spot\.amazonaws\.com"
    with launching(aws, (code, text, 403)) as machines, pytest.raises(FleetError, match=mend) as caught:
        machines.launch(REQUEST)
    assert caught.value.retryable is False
    # and as CreateFleet words it for a pool of its own
    with launching(aws, fleet_answer(0, (code, text))) as machines, pytest.raises(FleetError, match=mend):
        machines.launch(REQUEST)


@pytest.mark.parametrize(
    ("code", "text", "mend", "may_pass"),
    [
        ("VcpuLimitExceeded", "You have requested more vCPU capacity than your limit of 5", "L-1216C47A", True),
        ("MaxSpotInstanceCountExceeded", "Max spot instance count exceeded", "L-34B43A08", True),
        ("InsufficientInstanceCapacity", "We currently do not have sufficient c5.xlarge", "other --type", True),
        ("UnfulfillableCapacity", "Unable to fulfill capacity due to your request", "--on-demand", True),
        ("SpotMaxPriceTooLow", "Your Spot request price of 0.01 is lower than", "--max-price", True),
        ("PendingVerification", "Your request for accessing resources is being validated", "new to this region", False),
        ("InsufficientFreeAddressesInSubnet", "not enough free addresses", "another --subnet", False),
        ("UnauthorizedOperation", "You are not authorized to perform this operation", "--print-policies", False),
    ],
)
def test_a_shortfall_is_told_with_awss_reason_and_the_mend(aws, code, text, mend, may_pass):
    with launching(aws, fleet_answer(0, (code, text))) as machines, pytest.raises(FleetError) as caught:
        machines.launch(REQUEST)
    told = str(caught.value)
    assert "No instance was started, of 4 asked for" in told
    assert text in told
    assert f"({code})" in told
    assert mend in told
    assert caught.value.retryable is may_pass
    # a part of it is a report with the same reason
    with launching(aws, fleet_answer(1, (code, text), (code, text))) as machines:
        report = machines.launch(REQUEST)
    assert len(report.instance_ids) == 1
    assert report.shortfalls == ((code, text),)
    assert mend in report.mend


def test_what_was_not_needed_is_not_told(aws):
    with launching(aws, fleet_answer(4, ("InsufficientInstanceCapacity", "none in us-east-1e"))) as machines:
        assert machines.launch(REQUEST).shortfalls == ()


def test_a_launch_that_may_not_be_made_names_the_action(aws):
    text = "You are not authorized to perform: ec2:CreateFleet on resource: arn:aws:ec2:us-east-1:1:fleet/*"
    with (
        launching(aws, ("UnauthorizedOperation", text, 403)) as machines,
        pytest.raises(FleetError, match="AWS denied ec2:CreateFleet") as caught,
    ):
        machines.launch(REQUEST)
    assert caught.value.retryable is False


# --- the network ------------------------------------------------------------------------------------------------------


def places(aws, answers, subnet_ids=()):
    with Stubber(aws.ec2()) as stub:
        for operation, answer in answers:
            stub.add_response(operation, answer)
        return Network(aws, group="wren-default", fleet="default").places(subnet_ids)


def network(way, *services, subnet=None):
    endpoints = [{"ServiceName": f"com.amazonaws.us-east-1.{one}", "State": "available"} for one in services]
    return [
        ("describe_subnets", {"Subnets": [subnet or SUBNET]}),
        ("describe_route_tables", route_tables(way)),
        ("describe_vpc_endpoints", {"VpcEndpoints": endpoints}),
    ]


def test_no_default_vpc(aws):
    with pytest.raises(FleetError, match=r"no default VPC in us-east-1.*--subnet.*aws ec2 create-default-vpc"):
        places(aws, [("describe_vpcs", {"Vpcs": []})])


def test_a_default_vpc_without_subnets(aws):
    answers = [("describe_vpcs", {"Vpcs": [{"VpcId": "vpc-1"}]}), ("describe_subnets", {"Subnets": []})]
    with pytest.raises(FleetError, match="create-default-subnet"):
        places(aws, answers)


@pytest.mark.parametrize(
    ("way", "services", "public"),
    [
        ({"GatewayId": "igw-1"}, (), True),
        ({"GatewayId": "igw-1"}, ("s3", "sqs"), True),  # log lines still need a way
        ({"GatewayId": "igw-1"}, ("s3", "sqs", "logs"), False),
        ({"NatGatewayId": "nat-1"}, (), False),
        ({"TransitGatewayId": "tgw-1"}, (), False),
        (None, ("s3", "sqs", "logs"), False),
        (None, ("s3", "sqs"), False),
    ],
)
def test_an_address_of_its_own_only_without_nat_and_endpoints(aws, way, services, public):
    [place] = places(aws, network(way, *services), ["subnet-a"])
    assert place.public_ip is public


@pytest.mark.parametrize("way", [None, {"NatGatewayId": "nat-1", "State": "blackhole"}])
def test_a_subnet_that_nothing_gets_out_of_is_refused(aws, way):
    with pytest.raises(FleetError, match="Nothing gets out of subnet-a"):
        places(aws, network(way), ["subnet-a"])


def test_subnets_of_two_vpcs_are_refused(aws):
    two = {"Subnets": [SUBNET, {**SUBNET, "SubnetId": "subnet-b", "VpcId": "vpc-2"}]}
    with pytest.raises(FleetError, match="several VPCs"):
        places(aws, [("describe_subnets", two)], ["subnet-a", "subnet-b"])


# --- setting up -------------------------------------------------------------------------------------------------------


def queue_of(names=NAMES):
    return next(one for one in plan(names, ("3.11",)) if one.kind is Kind.QUEUE)


def creating_a_queue(aws, n_refusals, *, clock):
    told = []
    code = "AWS.SimpleQueueService.QueueDeletedRecently"
    with Stubber(aws.sqs()) as stub:
        stub.add_client_error("get_queue_url", "AWS.SimpleQueueService.NonExistentQueue")
        for _ in range(n_refusals):
            stub.add_client_error("create_queue", code, "You must wait 60 seconds after deleting a queue")
        stub.add_response("create_queue", {"QueueUrl": "http://queue"}, {"QueueName": ANY, "Attributes": ANY})
        AwsProvisioner(aws, tell=told.append, clock=clock).ensure(queue_of())
    return told


def test_a_queue_that_was_deleted_less_than_a_minute_ago_is_waited_for_aloud(aws):
    clock = FakeClock()
    began = clock.monotonic()
    told = creating_a_queue(aws, 5, clock=clock)
    assert len(told) == 1
    assert "deleted less than 60 s ago" in told[0]
    assert 0 < clock.monotonic() - began < 70


def test_a_name_that_stays_taken_is_told_in_the_end(aws):
    clock = FakeClock()
    began = clock.monotonic()
    with pytest.raises(FleetError, match="Wait a minute and run setup again"):
        creating_a_queue(aws, 1000, clock=clock)
    assert 60 < clock.monotonic() - began < 80


class Elsewhere:
    """Makes everything but what IAM has to."""

    def __init__(self, iam):
        self._iam = iam
        self.made = []

    def exists(self, resource):
        return self._iam.exists(resource) if resource.kind in (Kind.ROLE, Kind.PROFILE) else resource in self.made

    def ensure(self, resource):
        if resource.kind in (Kind.ROLE, Kind.PROFILE):
            self._iam.ensure(resource)
        self.made.append(resource)


def test_whoever_may_not_create_roles_gets_the_rest_and_is_told(aws):
    text = f"User: arn:aws:iam::{ACCOUNT}:user/ada is not authorized to perform: iam:CreateRole on resource: role x"
    with Stubber(aws.iam()) as stub:
        stub.add_client_error("get_role", "NoSuchEntity", http_status_code=404)
        stub.add_client_error("create_role", "AccessDenied", text, http_status_code=403)
        stub.add_client_error("get_instance_profile", "AccessDenied", text, http_status_code=403)
        steps = list(setup(Elsewhere(AwsProvisioner(aws)), NAMES, pythons=("3.11",)))
    refused = {step.resource.kind: step.why for step in steps if step.what == "refused"}
    assert set(refused) == {Kind.ROLE, Kind.PROFILE}
    assert "AWS denied iam:CreateRole" in refused[Kind.ROLE]
    assert {step.resource.kind for step in steps if step.what == "made"} == set(Kind) - {Kind.ROLE, Kind.PROFILE}


def test_a_denial_of_anything_else_ends_setup(aws):
    with Stubber(aws.s3()) as stub:
        stub.add_client_error("head_bucket", "403", "Forbidden", http_status_code=403)
        steps = setup(AwsProvisioner(aws), NAMES, pythons=("3.11",))
        with pytest.raises(FleetError, match="S3 bucket"):
            next(steps)
