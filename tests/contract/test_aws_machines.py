"""EC2 and the fleet's resources through moto, as it is and as the sandbox mends it."""

from __future__ import annotations

import json
import secrets

import pytest

from wren_worker.aws.ec2 import Ec2Machines
from wren_worker.aws.network import Network
from wren_worker.aws.provision import AwsProvisioner
from wren_worker.aws.session import Aws
from wren_worker.config import Names
from wren_worker.errors import FleetError
from wren_worker.fleet.drain import drain
from wren_worker.fleet.setup import plan, setup, teardown
from wren_worker.protocol.ports import InstanceRequest
from wren_worker.protocol.provision import Kind
from wren_worker.testing import FakeClock


@pytest.fixture
def aws(moto_aws):
    return moto_aws


@pytest.fixture
def names(aws):
    return Names(fleet=f"f{secrets.token_hex(5)}", account=aws.account, region=aws.region)


@pytest.fixture
def provisioner(aws):
    return AwsProvisioner(aws)


@pytest.fixture
def fleet(provisioner, names):
    return list(setup(provisioner, names, pythons=("3.11",)))


@pytest.fixture
def image(aws):
    return aws.ec2().describe_images()["Images"][0]["ImageId"]


def request_of(names, image, **changes):
    values = {
        "fleet": names.fleet,
        "count": 2,
        "instance_types": ("c5.xlarge",),
        "image_id": image,
        "user_data": "#cloud-config\n",
        "python": "3.11",
        "version": "1",
        "launch_id": secrets.token_hex(8),
        "client_token": secrets.token_hex(8),
    }
    return InstanceRequest(**{**values, **changes})


def test_setup_makes_everything_once(provisioner, names, fleet):
    assert {step.what for step in fleet} == {"made"}
    assert [step.resource for step in fleet] == plan(names, ("3.11",))
    assert {step.what for step in setup(provisioner, names, pythons=("3.11",))} == {"there"}


def test_a_dry_run_makes_nothing(provisioner, names):
    assert {
        step.what for step in setup(provisioner, names, dry_run=True) if step.resource.kind is not Kind.LOG_GROUP
    } == {"missing"}
    assert provisioner.queues(f"wren-{names.fleet}-") == []


def test_teardown_removes_everything_objects_and_reply_queues_too(aws, provisioner, names, fleet):
    aws.s3().put_object(Bucket=names.bucket, Key="jobs/a", Body=b"x")
    aws.sqs().create_queue(QueueName=names.reply_queue("abc"))
    steps = list(teardown(provisioner, names, last_fleet=False))
    kept = [step.resource.kind for step in steps if step.what == "kept"]
    assert kept == [Kind.LOG_GROUP]
    assert {step.what for step in steps if step.resource.kind is not Kind.LOG_GROUP} == {"removed"}
    assert provisioner.queues(f"wren-{names.fleet}-") == []
    assert [one.kind for one in plan(names) if provisioner.exists(one)] == [Kind.LOG_GROUP]
    assert [step.what for step in teardown(provisioner, names, last_fleet=False)] == ["kept"]


def test_the_bucket_is_private_and_forgets(aws, names, fleet):
    block = aws.s3().get_public_access_block(Bucket=names.bucket)["PublicAccessBlockConfiguration"]
    assert set(block.values()) == {True}
    rules = aws.s3().get_bucket_lifecycle_configuration(Bucket=names.bucket)["Rules"]
    kept = {rule["Filter"]["Prefix"]: rule["Expiration"]["Days"] for rule in rules if "Expiration" in rule}
    assert kept["jobs/"] == kept["results/"] == 15  # a message lives 14
    assert [rule["AbortIncompleteMultipartUpload"] for rule in rules if "Expiration" not in rule] == [
        {"DaysAfterInitiation": 1}
    ]


def test_a_region_of_its_own_is_named_to_the_bucket(aws):
    abroad = Aws("eu-central-1", account=aws.account, exports=aws._exports)
    names = Names(fleet=f"f{secrets.token_hex(5)}", account=aws.account, region=abroad.region)
    for _ in setup(AwsProvisioner(abroad), names, pythons=()):
        pass
    assert abroad.s3().get_bucket_location(Bucket=names.bucket)["LocationConstraint"] == "eu-central-1"


def test_a_task_queue_has_its_dead_letters_and_bounds(aws, names, fleet):
    url = aws.sqs().get_queue_url(QueueName=names.task_queue("3.11"))["QueueUrl"]
    found = aws.sqs().get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    redrive = json.loads(found["RedrivePolicy"])
    assert redrive["deadLetterTargetArn"].endswith(names.dead_letter_queue("3.11"))
    assert int(redrive["maxReceiveCount"]) == 30
    assert (found["MessageRetentionPeriod"], found["VisibilityTimeout"]) == ("1209600", "90")
    assert (found["MaximumMessageSize"], found["SqsManagedSseEnabled"]) == ("1048576", "true")


def test_the_template_is_tagged_and_follows_the_plan(aws, provisioner, names, fleet):
    ec2 = aws.ec2()
    [template] = ec2.describe_launch_templates(LaunchTemplateNames=[names.launch_template])["LaunchTemplates"]
    # the client's policy allows new versions of templates with this tag alone
    assert {"Key": "wren:fleet", "Value": names.fleet} in template["Tags"]
    ec2.create_launch_template_version(
        LaunchTemplateName=names.launch_template,
        VersionDescription="by hand",
        LaunchTemplateData={"InstanceInitiatedShutdownBehavior": "stop"},
    )
    ec2.modify_launch_template(LaunchTemplateName=names.launch_template, DefaultVersion="2")
    list(setup(provisioner, names, pythons=("3.11",)))
    [default] = ec2.describe_launch_template_versions(LaunchTemplateName=names.launch_template, Versions=["$Default"])[
        "LaunchTemplateVersions"
    ]
    data = default["LaunchTemplateData"]
    assert data["InstanceInitiatedShutdownBehavior"] == "terminate"
    assert data["MetadataOptions"]["HttpTokens"] == "required"
    assert data["MetadataOptions"]["HttpPutResponseHopLimit"] == 1
    assert data["MetadataOptions"]["InstanceMetadataTags"] == "enabled"


def test_a_refusal_names_the_resource(provisioner, names, monkeypatch):
    [bucket, *_] = plan(names)
    monkeypatch.setattr(provisioner, "_make_bucket", lambda resource: provisioner._aws.s3().head_bucket(Bucket="n/a"))
    with pytest.raises(FleetError, match=f"make the S3 bucket {names.bucket}") as caught:
        provisioner.ensure(bucket)
    assert caught.value.name == names.bucket


@pytest.fixture
def mended(sandbox_aws):
    """A fleet in the sandbox, whose EC2 fills launches as AWS does; its instances end with it."""
    names = Names(fleet=f"f{secrets.token_hex(5)}", account=sandbox_aws.account, region=sandbox_aws.region)
    for _ in setup(AwsProvisioner(sandbox_aws), names, pythons=()):
        pass
    machines = Ec2Machines(sandbox_aws, names.launch_template)
    yield sandbox_aws, names, machines
    machines.terminate([info.instance_id for info in machines.instances(names.fleet)])


@pytest.fixture
def tiny(mended):
    """An image whose user-data boots nothing."""
    aws, _, machines = mended
    found = machines.find_image("3.11")
    return found.image_id if found else aws.ec2().describe_images()["Images"][0]["ImageId"]


def test_a_launch_is_tagged_pinned_and_repeatable(mended, tiny):
    aws, names, machines = mended
    request = request_of(names, tiny)
    report = machines.launch(request)
    assert len(report.instance_ids) == 2
    assert report.shortfalls == ()
    assert machines.launch(request).instance_ids == report.instance_ids
    found = machines.instances(names.fleet)
    assert {info.instance_id for info in found} == set(report.instance_ids)
    tags = found[0].tags
    assert (tags["wren:fleet"], tags["wren:launch"]) == (names.fleet, request.launch_id)
    assert (tags["wren:python"], tags["wren:version"]) == ("3.11", "1")
    assert found[0].tags["aws:ec2launchtemplate:version"] == "2"
    shutdown = aws.ec2().describe_instance_attribute(
        InstanceId=report.instance_ids[0], Attribute="instanceInitiatedShutdownBehavior"
    )
    assert shutdown["InstanceInitiatedShutdownBehavior"]["Value"] == "terminate"
    # same content, another launch: the version is found again
    machines.launch(request_of(names, tiny, count=1))
    assert {info.tags["aws:ec2launchtemplate:version"] for info in machines.instances(names.fleet)} == {"2"}


def test_the_root_disk_has_the_images_own_name(mended, tiny):
    aws, names, machines = mended
    machines.launch(request_of(names, tiny, count=1))
    root = aws.ec2().describe_images(ImageIds=[tiny])["Images"][0]["RootDeviceName"]
    versions = aws.ec2().describe_launch_template_versions(LaunchTemplateName=names.launch_template, Versions=["2"])
    [disk] = versions["LaunchTemplateVersions"][0]["LaunchTemplateData"]["BlockDeviceMappings"]
    assert disk["DeviceName"] == root
    assert (disk["Ebs"]["Encrypted"], disk["Ebs"]["VolumeType"]) == (True, "gp3")
    assert disk["Ebs"]["VolumeSize"] >= 30


def test_a_launch_is_spread_over_the_zones_and_nothing_is_let_in(mended, tiny):
    aws, names, machines = mended
    machines.launch(request_of(names, tiny, count=4, instance_types=("c5.large", "m5.large")))
    found = machines.instances(names.fleet)
    assert len({info.zone for info in found}) > 1
    versions = aws.ec2().describe_launch_template_versions(LaunchTemplateName=names.launch_template, Versions=["2"])
    [interface] = versions["LaunchTemplateVersions"][0]["LaunchTemplateData"]["NetworkInterfaces"]
    assert interface["AssociatePublicIpAddress"] is True  # the default VPC has no NAT
    [group] = aws.ec2().describe_security_groups(GroupIds=interface["Groups"])["SecurityGroups"]
    assert group["GroupName"] == names.launch_template
    assert group["IpPermissions"] == []
    assert group["IpPermissionsEgress"] != []
    details = aws.ec2().describe_instances(InstanceIds=[found[0].instance_id])["Reservations"][0]["Instances"][0]
    assert details["PublicIpAddress"]


def test_a_vpc_of_ones_own_has_its_own_group_and_needs_no_addresses_behind_a_nat(mended, tiny):
    aws, names, machines = mended
    ec2 = aws.ec2()
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.1.0/24")["Subnet"]["SubnetId"]
    with pytest.raises(FleetError, match=f"Nothing gets out of {subnet}"):
        machines.launch(request_of(names, tiny, count=1, subnet_ids=(subnet,)))
    nat = ec2.create_nat_gateway(SubnetId=subnet, ConnectivityType="private")["NatGateway"]["NatGatewayId"]
    [table] = ec2.describe_route_tables(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["RouteTables"]
    ec2.create_route(RouteTableId=table["RouteTableId"], DestinationCidrBlock="0.0.0.0/0", NatGatewayId=nat)
    [one] = machines.launch(request_of(names, tiny, count=1, subnet_ids=(subnet,))).instance_ids
    details = ec2.describe_instances(InstanceIds=[one])["Reservations"][0]["Instances"][0]
    assert details["SubnetId"] == subnet
    assert "PublicIpAddress" not in details
    groups = ec2.describe_security_groups(Filters=[{"Name": "group-name", "Values": [names.launch_template]}])
    assert {group["VpcId"] for group in groups["SecurityGroups"]} >= {vpc}
    # a group of the user's own is taken instead
    own = ec2.create_security_group(GroupName=f"own-{names.fleet}", Description="d", VpcId=vpc)["GroupId"]
    machines.launch(request_of(names, tiny, count=1, subnet_ids=(subnet,), security_group_ids=(own,)))
    versions = ec2.describe_launch_template_versions(LaunchTemplateName=names.launch_template)
    data = [one["LaunchTemplateData"].get("NetworkInterfaces") for one in versions["LaunchTemplateVersions"]]
    assert [[own]] == [one[0]["Groups"] for one in data if one and one[0]["Groups"] == [own]]


def test_a_group_that_lets_something_in_is_seen(mended):
    aws, names, _ = mended
    ec2 = aws.ec2()
    group = ec2.create_security_group(GroupName=f"open-{names.fleet}", Description="d")["GroupId"]
    network = Network(aws, group=names.launch_template, fleet=names.fleet)
    assert network.open_groups([group]) == []
    permission = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[permission])
    assert network.open_groups([group]) == [group]


def test_types_are_described_in_order_and_a_wrong_one_is_named(mended):
    _, _, machines = mended
    large, amd = machines.describe_types(["c5.xlarge", "c5a.large"])
    assert (large.name, large.n_vcpus, large.memory_bytes) == ("c5.xlarge", 4, 8 << 30)
    assert (amd.manufacturer, amd.architectures) == ("AMD", ("x86_64",))
    with pytest.raises(FleetError, match=r"c5\.nonsense"):
        machines.describe_types(["c5.xlarge", "c5.nonsense"])


def test_a_price_of_twenty_years_ago_is_none(mended):
    _, _, machines = mended
    assert machines.spot_prices(["c5.large"]) == {}


def test_a_stock_image_is_found_by_owner_and_name(aws):
    known = [one for one in aws.ec2().describe_images()["Images"] if one.get("Architecture") == "x86_64"]
    wanted = next(one for one in known if one.get("RootDeviceType") == "ebs" and "ubuntu" in one["Name"])
    machines = Ec2Machines(aws, "any")
    pattern = f"{wanted['Name'][:-4]}*"
    assert machines.find_stock_image(wanted["OwnerId"], pattern) == wanted["ImageId"]
    # anybody may take the name
    assert machines.find_stock_image("136693071363", pattern) is None


def test_a_daemon_hears_of_its_own_draining_alone(mended, tiny):
    _, names, machines = mended
    started = machines.launch(request_of(names, tiny)).instance_ids
    assert drain(machines, started, timestamp=5.0) == {}
    assert {info.tags["wren:drain"] for info in machines.instances(names.fleet)} == {"5"}


def test_nothing_started_is_an_error_with_reasons(mended, tiny):
    _, names, machines = mended
    with pytest.raises(FleetError, match="No instance was started") as caught:
        machines.launch(request_of(names, tiny, instance_types=("c5.nonsense",)))
    assert caught.value.shortfalls
    assert machines.instances(names.fleet) == []


def test_a_fleet_without_a_template_says_what_to_run(mended, tiny):
    aws, names, _ = mended
    with pytest.raises(FleetError, match="wren-standalone setup"):
        Ec2Machines(aws, "wren-nobody").launch(request_of(names, tiny))


def test_one_bad_id_does_not_save_the_others(mended, tiny):
    _, names, machines = mended
    started = machines.launch(request_of(names, tiny)).instance_ids
    failed = machines.terminate([started[0], "i-0123456789abcdef0", started[1]])
    assert list(failed) == ["i-0123456789abcdef0"]
    assert failed["i-0123456789abcdef0"]
    assert {info.state for info in machines.instances(names.fleet)} <= {"shutting-down"}


def test_running_instances_can_be_tagged(mended, tiny):
    _, names, machines = mended
    [instance_id] = machines.launch(request_of(names, tiny, count=1)).instance_ids
    machines.set_tags([instance_id], {"wren:drain": "1"})
    [info] = machines.instances(names.fleet)
    assert info.tags["wren:drain"] == "1"


def test_the_newest_own_image_is_found(aws, image):
    ec2 = aws.ec2()
    [instance] = ec2.run_instances(ImageId=image, MinCount=1, MaxCount=1)["Instances"]
    made = []
    for number in range(2):
        name = f"wren-{number}-{secrets.token_hex(4)}"
        made.append(ec2.create_image(InstanceId=instance["InstanceId"], Name=name)["ImageId"])
        ec2.create_tags(Resources=[made[-1]], Tags=[{"Key": "wren:python", "Value": "3.99"}])
    machines = Ec2Machines(aws, "any")
    assert machines.find_image("3.99").image_id in made
    ec2.create_tags(Resources=made, Tags=[{"Key": "wren:wheel", "Value": "1.2"}])
    assert machines.named_image(made[0]).wheel == "1.2"
    assert machines.named_image("ami-00000000000000000") is None
    assert machines.find_image("2.7") is None


class Clock(FakeClock):
    """A clock whose machine learns of the instance profile while somebody waits."""

    def __init__(self, ec2):
        super().__init__()
        self._ec2 = ec2

    def sleep(self, duration_time):
        super().sleep(duration_time)
        self._ec2.n_refusals -= 1


class SlowToLearn:
    """EC2 that does not know the instance profile yet, for so many waits."""

    def __init__(self, n_refusals):
        self.n_refusals = n_refusals
        self.tokens = []

    def create_fleet(self, **request):
        self.tokens.append(request["ClientToken"])
        if self.n_refusals > 0:
            text = (
                "Value (wren-x-instance) for parameter iamInstanceProfile.name is invalid. Invalid IAM Instance Profile"
            )
            return {"Instances": [], "Errors": [{"ErrorCode": "InvalidParameterValue", "ErrorMessage": text}]}
        return {"Instances": [{"InstanceIds": ["i-1"]}], "Errors": []}


def machines_on(ec2, clock, monkeypatch):
    aws = Aws("us-east-1", account="123456789012")
    monkeypatch.setattr(aws, "ec2", lambda: ec2)
    machines = Ec2Machines(aws, "wren-x", clock=clock)
    monkeypatch.setattr(machines, "_choices", lambda request: [("2", [])])
    return machines


def test_a_profile_that_was_made_just_now_is_waited_for(names, monkeypatch):
    ec2 = SlowToLearn(2)
    machines = machines_on(ec2, Clock(ec2), monkeypatch)
    report = machines.launch(request_of(names, "ami-1", client_token="t"))
    assert report.instance_ids == ("i-1",)
    assert ec2.tokens == ["t", "t-2", "t-3"]


def test_a_profile_that_never_comes_is_told(names, monkeypatch):
    ec2 = SlowToLearn(1000)
    clock = Clock(ec2)
    began = clock.monotonic()
    with pytest.raises(FleetError, match="IAM Instance Profile"):
        machines_on(ec2, clock, monkeypatch).launch(request_of(names, "ami-1"))
    assert 30 < clock.monotonic() - began < 60


def test_a_console_is_shown_as_botocore_gives_it(monkeypatch):
    class Console:
        def get_console_output(self, InstanceId):
            return {"InstanceId": InstanceId, "Output": "Booting\n"}

    assert machines_on(Console(), FakeClock(), monkeypatch).console_output("i-1") == "Booting\n"
