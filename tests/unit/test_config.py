"""Settings, names and the instance's configuration."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wren_worker import config
from wren_worker.config import InstanceConfig, Names, Settings, load_instance_config, load_settings, shared_file
from wren_worker.errors import ConfigError

ROOT = Path(config.__file__).parents[1]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "config.toml"

    def write(text):
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return {"WREN_CONFIG": str(path)}

    return write


def test_defaults():
    assert load_settings({}) == Settings()
    assert Settings().fleet_name == "default"
    assert Settings(fleet="big").fleet_name == "big"


def test_arguments_go_over_the_environment_over_the_file_over_the_defaults(file):
    environ = file('fleet = "file"\nregion = "file"\nprofile = "file"\n')
    environ |= {"WREN_FLEET": "environment", "WREN_REGION": "environment"}
    found = load_settings(environ, fleet="argument")
    assert (found.fleet, found.region, found.profile, found.backend) == ("argument", "environment", "file", "")


def test_what_is_none_or_empty_does_not_count(file):
    environ = file('fleet = "file"') | {"WREN_FLEET": ""}
    assert load_settings(environ, fleet=None).fleet == "file"


def test_the_process_environment_is_read_when_none_is_given(monkeypatch):
    monkeypatch.setenv("WREN_FLEET", "mine")
    assert load_settings().fleet == "mine"


def test_other_variables_of_ours_are_no_settings():
    assert load_settings({"WREN_PYTHON": "/usr/bin/python3", "WREN_RUN_DIR": "/run/wren"}) == Settings()


def test_where_the_file_is():
    assert config.config_path({"WREN_CONFIG": "/a/b"}) == Path("/a/b")
    assert config.config_path({"XDG_CONFIG_HOME": "/x", "HOME": "/h"}) == Path("/x/wren/config.toml")
    assert config.config_path({"HOME": "/h"}) == Path("/h/.config/wren/config.toml")


def test_an_unknown_key_is_refused_with_a_suggestion(file):
    with pytest.raises(ConfigError, match=r"'regoin'.*config.toml.*'region'") as failure:
        load_settings(file('regoin = "eu-west-1"'))
    assert failure.value.name == "regoin"
    with pytest.raises(ConfigError, match="Did you mean 'job_max_runtime'"):
        load_settings({}, job_max_runtme=3)


def test_an_unknown_key_that_is_like_nothing_gets_the_list(file):
    with pytest.raises(ConfigError, match="Known are: backend, fleet"):
        load_settings(file("xyzzy = 1"))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("job_max_runtime", '"soon"'),
        ("job_max_runtime", "true"),
        ("job_max_runtime", "nan"),
        ("job_max_runtime", "inf"),
        ("job_max_runtime", "[1]"),
        ("map_item_limit", "1.5"),
        ("map_item_limit", "inf"),
        ("map_item_limit", '"1.5"'),
        ("map_item_limit", "false"),
        ("progress", '"maybe"'),
        ("progress", "7"),
        ("fleet", "true"),
        ("fleet", '["a"]'),
        ("fleet", "{a = 1}"),
        ("fleet", "2026-11-21"),
    ],
)
def test_a_malformed_value_is_refused_by_name(file, name, text):
    with pytest.raises(ConfigError, match=name) as failure:
        load_settings(file(f"{name} = {text}"))
    assert failure.value.name == name


@pytest.mark.parametrize(
    ("variable", "value"),
    [("WREN_JOB_MAX_RUNTIME", "1h"), ("WREN_MAP_ITEM_LIMIT", "ten"), ("WREN_PROGRESS", "si")],
)
def test_a_malformed_variable_is_refused_by_name(variable, value):
    with pytest.raises(ConfigError, match=f"{variable}.*environment"):
        load_settings({variable: value})


@pytest.mark.parametrize("text", ["fleet =", b"\xff\xfe", "a\x00b = 1"])
def test_a_file_that_is_not_toml_is_refused_by_path(file, text):
    with pytest.raises(ConfigError, match=r"config.toml is not TOML"):
        load_settings(file(text))


def test_values_take_their_types(file):
    environ = file("job_max_runtime = 60\nprogress = false\nfleet = 7") | {"WREN_MAP_ITEM_LIMIT": "12"}
    found = load_settings(environ)
    assert (found.job_max_runtime, found.progress, found.fleet, found.map_item_limit) == (60.0, False, "7", 12)
    assert type(found.job_max_runtime) is float
    for text, value in (("1", True), ("TRUE", True), ("yes", True), ("0", False), ("No", False)):
        assert load_settings({"WREN_PROGRESS": text}).progress is value


@pytest.mark.parametrize("fleet", ["a", "0", "a-b", "x" * 24, "team-7"])
def test_fleet_names(fleet):
    names = Names(fleet=fleet, account="123456789012", region="ap-southeast-1")
    assert names.task_queue("3.11") == f"wren-{fleet}-tasks-v1-py311"
    assert names.dead_letter_queue("3.11") == f"wren-{fleet}-tasks-v1-py311-dead"
    assert names.reply_queue("ab") == f"wren-{fleet}-reply-ab"
    assert names.bucket == f"wren-123456789012-ap-southeast-1-{fleet}"
    assert names.instance_role == f"wren-{fleet}-instance"
    assert names.launch_template == f"wren-{fleet}"
    assert names.log_group == "pywren-standalone"
    assert names.audience("q") == "ap-southeast-1/123456789012/q"
    assert len(names.bucket) <= 63
    assert len(names.dead_letter_queue("3.14")) <= 80


@pytest.mark.parametrize("fleet", ["", "-a", "a-", "A", "a_b", "a.b", "x" * 25, "a\n", "é", "a b"])
def test_what_cannot_be_a_fleet_name_is_refused(fleet):
    with pytest.raises(ConfigError, match="fleet name"):
        Names(fleet=fleet, account="123456789012", region="eu-west-1")


NEEDED = {"fleet": "f", "account": "123456789012", "region": "eu-west-1", "python": "3.11"}


@given(
    st.builds(
        InstanceConfig,
        **{name: st.just(value) for name, value in NEEDED.items()},
        slots=st.sampled_from(["auto", "4"]),
        runtime=st.text(st.characters(categories=["L", "N", "P"]), max_size=9),
        idle_timeout=st.floats(0, 1e6, exclude_min=True),
        max_lifetime=st.floats(0, 1e6, exclude_min=True),
        lease_time=st.floats(0, 1e6, exclude_min=True),
    )
)
def test_an_instance_reads_what_user_data_wrote(tmp_path_factory, instance):
    path = tmp_path_factory.getbasetemp() / "instance.json"
    path.write_text(instance.to_json(), encoding="utf-8")
    assert load_instance_config(path) == instance
    assert instance.names == Names(fleet="f", account="123456789012", region="eu-west-1")


def test_an_instance_may_leave_out_what_has_a_default(tmp_path):
    path = tmp_path / "instance.json"
    path.write_text(json.dumps(NEEDED | {"slots": 4, "idle_timeout": 5}))
    found = load_instance_config(path)
    assert (found.slots, found.idle_timeout, found.lease_time) == ("4", 5.0, 90.0)


@pytest.mark.parametrize("missing", sorted(NEEDED))
def test_an_instance_must_know_where_it_belongs(tmp_path, missing):
    path = tmp_path / "instance.json"
    for content in ({name: value for name, value in NEEDED.items() if name != missing}, NEEDED | {missing: ""}):
        path.write_text(json.dumps(content))
        with pytest.raises(ConfigError, match=f"lacks {missing}"):
            load_instance_config(path)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("{", "not JSON"),
        (b"\xff", "not JSON"),
        ("[1]", "not a JSON object"),
        ("null", "not a JSON object"),
        (json.dumps(NEEDED | {"lease_tme": 1}), "Did you mean 'lease_time'"),
        (json.dumps(NEEDED | {"lease_time": "long"}), "lease_time"),
        (json.dumps(NEEDED | {"lease_time": None}), "lease_time"),
        (json.dumps(NEEDED | {"lease_time": float("nan")}), "lease_time"),
        (json.dumps(NEEDED | {"fleet": ["f"]}), "fleet"),
        (json.dumps(NEEDED | {"runtime": None}), "runtime"),
    ],
)
def test_a_broken_instance_configuration_is_refused(tmp_path, content, match):
    path = tmp_path / "instance.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=match):
        load_instance_config(path)


def test_a_missing_instance_configuration_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load_instance_config(tmp_path / "none.json")


def test_every_setting_of_an_instance_has_one_kind_in_json():
    content = json.loads(InstanceConfig(**NEEDED).to_json())
    assert set(content) == {field.name for field in dataclasses.fields(InstanceConfig)}


@pytest.mark.parametrize("name", ["supervisord.conf", "cloud-init/deadman.py", "cloud-init", "packer"])
def test_shared_files_lie_beside_the_package_in_a_checkout(name):
    assert shared_file(name) == ROOT / name


def test_shared_files_of_a_wheel_come_first(tmp_path, monkeypatch):
    package = tmp_path / "wren_worker"
    (package / "_files").mkdir(parents=True)
    (package / "_files" / "supervisord.conf").touch()
    (tmp_path / "supervisord.conf").touch()
    monkeypatch.setattr(config, "__file__", str(package / "config.py"))
    assert shared_file("supervisord.conf") == package / "_files" / "supervisord.conf"
    with pytest.raises(ConfigError, match="incomplete"):
        shared_file("none")


def test_this_python():
    assert config.this_python() == ".".join(map(str, sys.version_info[:2]))
