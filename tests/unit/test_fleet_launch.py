"""What a launch asks for, what its instances are told, and what it costs."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import re
import tarfile

import pytest
import yaml

from wren_worker.clock import parse_time
from wren_worker.config import InstanceConfig, Names, load_instance_config
from wren_worker.errors import ConfigError, FleetError
from wren_worker.fleet.breaker import failed_boots
from wren_worker.fleet.images import choose_image
from wren_worker.fleet.launch import launch, remarks
from wren_worker.fleet.prices import ceiling, price_per_hour, price_table
from wren_worker.fleet.spec import Launch
from wren_worker.fleet.userdata import MAX_USER_DATA_BYTES, render
from wren_worker.protocol.ports import FoundImage, InstanceInfo, LaunchReport, TypeInfo
from wren_worker.testing import MemoryStore
from wren_worker.version import VERSION

NAMES = Names(fleet="default", account="123456789012", region="us-east-1")
CONFIG = InstanceConfig(fleet="default", account="123456789012", region="us-east-1", python="3.11")


class Machines:
    """Takes launches down."""

    def __init__(self, image="ami-own", stock=None, wheel=VERSION):
        self.image = image and FoundImage(image_id=image, wheel=wheel)
        self.stock = stock
        self.requests = []

    def find_image(self, python):
        return self.image

    def named_image(self, image_id):
        return FoundImage(image_id=image_id) if image_id == "ami-named" else None

    def find_stock_image(self, owner, name_pattern):
        self.stock_sought = (owner, name_pattern)
        return self.stock

    def instances(self, fleet, *, alive_only=True):
        return []

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
        ({"type": "big"}, "'big' is no instance type"),
        ({"type": ("c5.large", 3)}, "'3' is no instance type"),
        ({"type": "c5.large", "types": ("m5.large",)}, "different things"),
        ({"max_count": 0}, "max_count=0"),
        ({"count": 4, "max_count": 3}, "more than max_count=3"),
        ({"count": True}, "count=True"),
        ({"subnets": "subnet-1"}, "subnets='subnet-1' is one text"),
        ({"security_groups": (1,)}, "security_groups"),
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
    launch(machines, Launch(image="ami-named"), NAMES, python="3.11", launch_id="a", store=MemoryStore())
    assert machines.requests[0].image_id == "ami-named"
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
    assert "__" not in text


def test_strange_values_stay_within_their_line(tmp_path):
    config = InstanceConfig(
        fleet="default", account="123456789012", region="us-east-1", python="3.11", runtime="/opt/\"a: b' #x/ü/python"
    )
    content = yaml.safe_load(render(config))
    path = tmp_path / "instance.json"
    path.write_text(content["write_files"][0]["content"], encoding="utf-8")
    assert load_instance_config(path).runtime == config.runtime


def test_user_data_that_ec2_would_refuse_is_refused_here():
    huge = InstanceConfig(
        fleet="f", account="123456789012", region="r", python="3.11", runtime="x" * MAX_USER_DATA_BYTES
    )
    with pytest.raises(ConfigError, match="16384"):
        render(huge)
    assert len(render(CONFIG).encode()) < MAX_USER_DATA_BYTES / 4


@pytest.mark.parametrize(
    ("instance_type", "price"),
    [("c5.xlarge", 0.17), ("c5.2xlarge", 0.34), ("m5.large", 0.096), ("x9.huge", None), ("c5", None), ("", None)],
)
def test_prices(instance_type, price):
    assert price_per_hour(instance_type) == price


# --- what users write -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spec",
    [
        Launch(type="c5.large", max_count=3),
        Launch(type=["c5.large"], max_count=3),
        Launch(types=("c5.large",), count=3),
        Launch(type=["c5.large", "c5.large"], count=3),
    ],
)
def test_one_launch_in_several_words(spec):
    assert (spec.types, spec.type, spec.n_wanted, spec.n_most) == (("c5.large",), ("c5.large",), 3, 3)


def test_a_part_of_a_launch_keeps_its_bound():
    part = dataclasses.replace(Launch(type="c5.large", max_count=16, spot=True, slots=2), count=5)
    assert (part.n_wanted, part.n_most, part.spot, part.slots) == (5, 16, True, "2")


def test_instances_know_on_their_own_tags_when_they_should_be_over():
    machines = Machines()
    launch(machines, Launch(max_lifetime=7200.0, boot_timeout=600.0), NAMES, python="3.11", launch_id="a")
    [request] = machines.requests
    assert (request.tags["wren:max-lifetime"], request.tags["wren:boot-timeout"]) == ("7200", "600")


def test_arm_is_refused_and_amd_is_remarked():
    for kind in ("c6g.large", "c7gn.large", "t4g.small", "a1.large"):
        with pytest.raises(ConfigError, match="ARM"):
            remarks(Launch(type=kind))
    assert "MKL" in remarks(Launch(type=["c6a.large", "c5.large"]))[0]
    assert remarks(Launch(type=["c5.large", "g5.xlarge", "c7i-flex.large", "m6i.large"])) == []


# --- images ---------------------------------------------------------------------------------------------------------


def test_without_an_image_of_ones_own_the_publishers_stock_image_is_taken():
    machines = Machines(image=None, stock="ami-debian")
    image = choose_image(machines, "3.11")
    assert (image.image_id, image.stock) == ("ami-debian", True)
    assert machines.stock_sought == ("136693071363", "debian-12-amd64-*")  # by owner: anybody may take the name


@pytest.mark.parametrize(
    ("machines", "spec"),
    [
        (Machines(image=None, stock="ami-debian"), Launch()),
        (Machines(wheel="0.0.1"), Launch()),
        (Machines(wheel=""), Launch()),
        (Machines(), Launch(image="ami-named")),
    ],
    ids=["stock", "another version's wheel", "baked", "named"],
)
def test_what_an_image_lacks_is_stored_once_and_named_by_its_sha256(machines, spec):
    store = MemoryStore()
    for launch_id in "ab":
        launch(machines, spec, NAMES, python="3.11", launch_id=launch_id, store=store)
    [info] = store.list("wheels/")
    data = store.get(info.key)
    sha256 = hashlib.sha256(data).hexdigest()
    texts = {request.user_data for request in machines.requests}
    assert len(texts) == 1, "equal launches share a launch template version"
    assert f"'{NAMES.bucket}', '{info.key}', '{sha256}', 'us-east-1'" in texts.pop()
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        names = archive.getnames()
        assert any(re.fullmatch(r"wren_worker-.*\.whl", name) for name in names)
        assert b"numpy=" in archive.extractfile("environment.yml").read()
    assert {"cloud-init/bootstrap.sh", "cloud-init/install.sh", "supervisord.conf", "daemon.lock"} <= set(names)


def test_an_image_with_this_very_version_needs_nothing():
    machines, store = Machines(), MemoryStore()
    launch(machines, Launch(), NAMES, python="3.11", launch_id="a", store=store)
    assert not list(store.list(""))
    assert "fetch.py" not in machines.requests[0].user_data


def test_an_image_that_is_not_there_is_a_sentence():
    with pytest.raises(FleetError, match=r"no image ami-none .* image ls"):
        choose_image(Machines(), "3.11", wanted="ami-none")


def test_a_python_that_no_image_has_is_a_sentence():
    with pytest.raises(FleetError, match=r"no stock image is known .* image build"):
        choose_image(Machines(image=None), "3.10")
    with pytest.raises(FleetError, match=r"Ubuntu 24\.04 is not offered"):
        choose_image(Machines(image=None), "3.12")


# --- prices ---------------------------------------------------------------------------------------------------------


def test_the_bound_of_a_launch():
    rows = price_table(["c5.large", "c5.xlarge"], [], {})
    text = ceiling(Launch(type=["c5.large", "c5.xlarge"], max_lifetime=7200.0), rows, count=10)
    assert text == (
        "10 × c5.large or c5.xlarge: at most $1.70 an hour (on demand in us-east-1) and $3.40 over the 2 h that they "
        "may live"
    )
    spot = price_table(["c5.large"], [], {"c5.large": (0.03, 0.04)})
    assert "$0.40 an hour (today's spot price)" in ceiling(Launch(type="c5.large", spot=True), spot, count=10)
    assert "not in the price table" in ceiling(Launch(type="x9.huge"), price_table(["x9.huge"], [], {}), count=1)
    assert "not in the price table" in ceiling(
        Launch(type=["c5.large", "x9.huge"]), price_table(["c5.large", "x9.huge"], [], {}), count=1
    )


def test_the_price_table_says_what_a_type_is():
    info = TypeInfo(name="c6a.large", n_vcpus=2, memory_bytes=4 << 30, manufacturer="AMD")
    [row] = price_table(["c6a.large"], [info], {"c6a.large": (0.02, 0.03)})
    assert (row.n_vcpus, row.memory_gib, row.on_demand, row.spot) == (2, 4.0, 0.0765, (0.02, 0.03))
    assert "MKL" in row.note


# --- the circuit breaker --------------------------------------------------------------------------------------------


class Boots(Machines):
    """A fleet whose past is known."""

    def __init__(self, *infos):
        super().__init__()
        self.infos = infos

    def instances(self, fleet, *, alive_only=True):
        return list(self.infos)

    def console_output(self, instance_id):
        return "booting\nModuleNotFoundError: wren_worker\n"


def past(number, *, recipe, state="terminated", code="Client.InstanceInitiatedShutdown"):
    return InstanceInfo(
        instance_id=f"i-{number}",
        instance_type="c5.large",
        state=state,
        launch_timestamp=float(number),
        state_reason_code=code,
        tags={"wren:recipe": recipe},
    )


def recipe_of(spec):
    machines = Machines()
    launch(machines, spec, NAMES, python="3.11", launch_id="a")
    return machines.requests[0].tags["wren:recipe"]


def test_what_never_came_up_is_not_bought_again():
    recipe = recipe_of(Launch())
    machines, store = Boots(*(past(n, recipe=recipe) for n in range(3))), MemoryStore()
    with pytest.raises(FleetError, match="ModuleNotFoundError") as caught:
        launch(machines, Launch(), NAMES, python="3.11", launch_id="a", store=store)
    assert caught.value.retryable is False
    assert machines.requests == []
    launch(machines, Launch(), NAMES, python="3.11", launch_id="a", store=store, anyway=True)
    launch(machines, Launch(idle_timeout=60.0), NAMES, python="3.11", launch_id="a", store=store)  # another recipe
    assert len(machines.requests) == 2


@pytest.mark.parametrize(
    "infos",
    [
        [past(0, recipe="r"), past(1, recipe="r")],
        [past(0, recipe="r"), past(1, recipe="r"), past(2, recipe="other")],
        [past(0, recipe="r"), past(1, recipe="r"), past(2, recipe="r", code="Server.SpotInstanceTermination")],
        [past(0, recipe="r"), past(1, recipe="r"), past(2, recipe="r", code="Client.UserInitiatedShutdown")],
        [past(0, recipe="r"), past(1, recipe="r"), past(2, recipe="r", state="running")],
        [past(n, recipe="r") for n in range(3)] + [past(9, recipe="r")],  # i-9 reported
    ],
)
def test_what_says_nothing_about_a_boot_does_not_count(infos):
    assert len(failed_boots(infos, {"i-9"}, recipe="r")) < 3
