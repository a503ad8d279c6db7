"""What a launch asks for, what its instances are told, and what it costs."""

from __future__ import annotations

import json

import pytest
import yaml

from wren_worker.config import InstanceConfig, Names, load_instance_config
from wren_worker.errors import ConfigError, FleetError
from wren_worker.fleet import userdata
from wren_worker.fleet.launch import launch
from wren_worker.fleet.prices import price_per_hour
from wren_worker.fleet.spec import Launch, parse_time
from wren_worker.fleet.userdata import MAX_USER_DATA_BYTES, render
from wren_worker.protocol.ports import LaunchReport

NAMES = Names(fleet="default", account="123456789012", region="us-east-1")
CONFIG = InstanceConfig(fleet="default", account="123456789012", region="us-east-1", python="3.11")


class Machines:
    """Takes launches down."""

    def __init__(self, image="ami-own"):
        self.image = image
        self.requests = []

    def find_image(self, python):
        return self.image

    def launch(self, request):
        self.requests.append(request)
        return LaunchReport(instance_ids=tuple(f"i-{number}" for number in range(request.count)))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("5m", 300), ("8h", 28800), ("1.5d", 129600), (" 2 m ", 120), ("0", 0)],
)
def test_times(text, seconds):
    assert parse_time(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "-5m", "5 weeks", "1e3", "nan", "5m3s"])
def test_what_is_no_time(text):
    with pytest.raises(ConfigError, match="no time"):
        parse_time(text)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"count": 0}, "count=0"),
        ({"count": -1}, "count=-1"),
        ({"count": 100_000}, "count=100000"),
        ({"types": ()}, "--type"),
        ({"slots": "many"}, "many"),
        ({"slots": "0"}, "slots"),
        ({"slots": "-1"}, "slots"),
        ({"idle_timeout": 0}, "idle_timeout"),
        ({"max_lifetime": -1}, "max_lifetime"),
        ({"lease_time": 0}, "lease_time"),
        ({"idle_timeout": 7200, "max_lifetime": 3600}, "longer"),
        ({"max_price": "0.1"}, "--spot"),
        ({"max_price": "cheap", "spot": True}, "cheap"),
        ({"max_price": "-1", "spot": True}, "dollars"),
        ({"types": "c5.xlarge"}, "tuple"),
        ({"count": 1.5}, r"count=1\.5"),
        ({"idle_timeout": float("nan")}, "idle_timeout"),
        ({"max_lifetime": float("inf")}, "max_lifetime"),
    ],
)
def test_nonsense_is_refused_before_aws_is_asked(wrong, named):
    with pytest.raises(ConfigError, match=named):
        Launch(**wrong)


def test_a_launch_says_everything_in_one_request():
    machines = Machines()
    spec = Launch(
        count=3, types=("c5.xlarge", "m5.xlarge"), spot=True, max_price="0.1", idle_timeout=60, subnets=("s",)
    )
    report = launch(machines, spec, NAMES, python="3.11", launch_id="abc")
    assert report.instance_ids == ("i-0", "i-1", "i-2")
    [request] = machines.requests
    assert (request.fleet, request.count, request.instance_types) == ("default", 3, ("c5.xlarge", "m5.xlarge"))
    assert (request.image_id, request.python, request.spot, request.max_price) == ("ami-own", "3.11", True, "0.1")
    assert (request.launch_id, request.client_token, request.subnet_ids) == ("abc", "abc", ("s",))
    assert '"idle_timeout": 60' in request.user_data


def test_equal_launches_have_equal_user_data():
    # each distinct one costs a version of the launch template, of which there are ten thousand
    machines = Machines()
    for launch_id in ("a", "b"):
        launch(machines, Launch(), NAMES, python="3.11", launch_id=launch_id)
    first, second = machines.requests
    assert first.user_data == second.user_data


def test_a_named_image_is_taken_and_none_is_a_sentence():
    machines = Machines(image=None)
    launch(machines, Launch(image="ami-mine"), NAMES, python="3.11", launch_id="a")
    assert machines.requests[0].image_id == "ami-mine"
    with pytest.raises(FleetError, match=r"wren:python=3\.11"):
        launch(machines, Launch(), NAMES, python="3.11", launch_id="a")


def test_user_data_is_cloud_config_that_writes_the_configuration(tmp_path):
    text = render(CONFIG)
    assert text.startswith("#cloud-config\n")
    content = yaml.safe_load(text)
    [file] = [item for item in content["write_files"] if item["path"] == "/etc/wren/instance.json"]
    path = tmp_path / "instance.json"
    path.write_text(file["content"])
    assert load_instance_config(path) == CONFIG
    assert json.loads(file["content"])["idle_timeout"] == 300.0
    assert userdata._TOKEN not in text


def test_strange_values_stay_within_their_line(tmp_path):
    config = InstanceConfig(
        fleet="default", account="1", region="us-east-1", python="3.11", runtime="/opt/\"a: b'\n#x/ü/python"
    )
    content = yaml.safe_load(render(config))
    path = tmp_path / "instance.json"
    path.write_text(content["write_files"][0]["content"], encoding="utf-8")
    assert load_instance_config(path).runtime == config.runtime


def test_user_data_that_ec2_would_refuse_is_refused_here():
    huge = InstanceConfig(fleet="f", account="1", region="r", python="3.11", runtime="x" * MAX_USER_DATA_BYTES)
    with pytest.raises(ConfigError, match="16384"):
        render(huge)
    assert len(render(CONFIG).encode()) < MAX_USER_DATA_BYTES / 4


@pytest.mark.parametrize(
    ("instance_type", "price"),
    [("c5.xlarge", 0.17), ("c5.2xlarge", 0.34), ("m5.large", 0.096), ("x9.huge", None), ("c5", None), ("", None)],
)
def test_prices(instance_type, price):
    assert price_per_hour(instance_type) == price
