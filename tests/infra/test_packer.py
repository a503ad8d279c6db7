"""The image's template: what packer says, what a policy demands, and a real provisioning by packer itself."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path

import chroot
import hcl2
import pytest

import wren_worker
from wren_worker.errors import FleetError
from wren_worker.fleet.image import build_command, read_result, run_packer

ROOT = Path(wren_worker.__file__).parents[1]
PACKER = ROOT / "packer"
TEMPLATES = sorted(PACKER.glob("*.pkr.hcl"))

#: Names of the amazon plugin's own, for what the template uses: Debian's packer cannot check them.
#: Source: builder/ebs/builder.hcl2spec.go of hashicorp/packer-plugin-amazon, read 2026-11.
KNOWN = {
    *("region", "profile", "instance_type", "subnet_id", "ssh_username", "ssh_timeout", "temporary_key_pair_type"),
    *("ssh_clear_authorized_keys", "temporary_security_group_source_public_ip", "source_ami_filter"),
    *("metadata_options", "imds_support", "launch_block_device_mappings", "shutdown_behavior", "user_data"),
    *("ami_name", "ami_description", "tags", "snapshot_tags", "run_tags", "run_volume_tags"),
}


def plain(value):
    """Return what python-hcl2 read without its quotes and marks."""
    if isinstance(value, dict):
        return {plain(name): plain(part) for name, part in value.items() if not name.startswith("__")}
    if isinstance(value, list):
        return [plain(part) for part in value]
    if isinstance(value, str) and len(value) > 1 and value[0] == value[-1] == '"':
        return value[1:-1]
    return value


@pytest.fixture(scope="module")
def template():
    with (PACKER / "wren.pkr.hcl").open(encoding="utf-8") as file:
        return plain(hcl2.load(file))


@pytest.fixture(scope="module")
def variables():
    with (PACKER / "variables.pkr.hcl").open(encoding="utf-8") as file:
        found = plain(hcl2.load(file))
    return {name: body for block in found["variable"] for name, body in block.items()}


@pytest.fixture(scope="module")
def amazon(template):
    [source] = [block["amazon-ebs"]["wren"] for block in template["source"] if "amazon-ebs" in block]
    return source


@pytest.fixture
def readable(tmp_path):
    """Return what is uploaded, laid out as in the checkout, without the block that packers before 1.7 cannot read."""
    for name in ("packer", "cloud-init"):
        shutil.copytree(ROOT / name, tmp_path / "tree" / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy2(ROOT / "supervisord.conf", tmp_path / "tree")
    (tmp_path / "tree/packer/plugins.pkr.hcl").unlink()
    return tmp_path / "tree/packer"


# --- what packer says


def run(*command):
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_template_is_formatted(require_tool):
    run(require_tool("packer"), "fmt", "-check", "-diff", PACKER)


def test_packer_can_read_the_template(require_tool, readable):
    run(require_tool("packer"), "validate", "-syntax-only", readable)


def test_packer_sees_a_broken_template(require_tool, readable):
    (readable / "broken.pkr.hcl").write_text('source "null" {\n', encoding="utf-8")
    with pytest.raises(AssertionError, match=r"broken\.pkr\.hcl"):
        run(require_tool("packer"), "validate", "-syntax-only", readable)


# --- what a policy demands


def test_the_building_machine_and_its_image_demand_session_tokens(amazon):
    [metadata] = amazon["metadata_options"]
    assert metadata["http_tokens"] == "required"
    assert metadata["http_put_response_hop_limit"] == 1
    assert amazon["imds_support"] == "v2.0"


def test_disks_are_encrypted_unless_somebody_says_otherwise(amazon, variables):
    [disk] = amazon["launch_block_device_mappings"]
    assert disk["volume_type"] == "gp3"
    assert disk["encrypted"] == "${var.encrypt}"
    assert variables["encrypt"]["default"] is True
    assert disk["delete_on_termination"] is True


def test_a_machine_that_packer_forgot_ends_itself(amazon, variables):
    assert amazon["shutdown_behavior"] == "terminate"
    assert "shutdown -P +${var.build_minutes}" in amazon["user_data"]
    assert 30 <= variables["build_minutes"]["default"] <= 240


def test_only_the_builder_s_own_address_may_enter(amazon):
    assert amazon["temporary_security_group_source_public_ip"] is True
    assert amazon["ssh_clear_authorized_keys"] is True


def test_image_and_snapshots_carry_the_tags_that_find_them(amazon, template):
    assert amazon["tags"] == amazon["snapshot_tags"] == "${local.tags}"
    [tags] = [block["tags"] for block in template["locals"]]
    assert set(tags) == {"Name", "wren:version", "wren:python", "wren:runtime"}
    assert tags["wren:python"] == "${var.python}"
    # a machine that builds is no instance of a fleet
    assert not any(name.startswith("wren:fleet") for name in amazon["run_tags"])


def test_the_base_is_chosen_by_owner_and_name(amazon):
    [choice] = amazon["source_ami_filter"]
    assert choice["owners"] == ["${var.base_owner}"]
    assert choice["filters"]["name"] == "${var.base_name}"
    assert choice["most_recent"] is True


def test_the_plugin_knows_every_name(amazon):
    assert set(amazon) <= KNOWN


def test_every_variable_is_declared_and_used(variables):
    used = {name for path in TEMPLATES for name in re.findall(r"\bvar\.(\w+)", path.read_text(encoding="utf-8"))}
    assert used == set(variables)
    assert all("type" in body for body in variables.values())


def test_one_block_provisions_both_sources_with_scripts_that_exist(template):
    [build] = template["build"]
    assert build["sources"] == ["source.amazon-ebs.wren", "source.null.machine"]
    scripts = [name for step in build["provisioner"] for name in step.get("shell", {}).get("scripts", [])]
    paths = [PACKER / name.removeprefix("${path.root}/") for name in scripts]
    assert all(path.is_file() for path in paths)
    assert [path.stem for path in paths] == ["base", "daemon", "runtime", "units", "record", "clean"]


# --- the whole of it, over ssh into a Debian 12


def inside(root, *command, user="root"):
    done = subprocess.run(
        ["chroot", f"--userspec={user}", str(root), *command], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_debian_is_provisioned_by_packer_itself(require_tool, readable, tmp_path, processes, free_port, deadline):
    packer = require_tool("packer")
    chroot.require_root()
    root = chroot.make(tmp_path, require_tool)
    log = tmp_path / "sshd.log"
    with log.open("w", encoding="utf-8") as stderr:
        processes(chroot.enter(root, free_port), stderr=stderr)
    deadline(lambda: "Server listening" in log.read_text(encoding="utf-8"))
    variables = {
        "runtime": "wheels",
        "ssh_port": str(free_port),
        "ssh_username": chroot.USER,
        "ssh_key": str(tmp_path / "key"),
        "output": str(tmp_path),
    }
    said = []
    run_packer(build_command(packer, ["build", "-color=false", "-only=null.machine"], variables, readable), said.append)
    with pytest.raises(FleetError, match="names no image, but 'Null'"):
        read_result(tmp_path)  # packer's own manifest, which the null builder leaves without an image

    etc = root / "opt/wren/etc"
    record = json.loads((tmp_path / "runtime.json").read_text(encoding="utf-8"))
    assert record == json.loads((etc / "runtime.json").read_text(encoding="utf-8"))
    assert record["ok"] is True
    assert (record["python"], record["kind"]) == ("3.11", "wheels")
    assert record["digest"] == hashlib.sha256((etc / "runtime-explicit.txt").read_bytes()).hexdigest()
    assert {one["internal_api"] for one in record["blas"]} == {"openblas"}
    assert record["versions"]["numpy"]

    # the daemon's environment has all that the daemon imports, and the package itself comes at boot
    shutil.copytree(ROOT / "wren_worker", root / "root/site/wren_worker", ignore=shutil.ignore_patterns("__pycache__"))
    daemon = "import sys; sys.path.insert(0, '/root/site'); import wren_worker.wiring.instance, wren_worker.aws.logs"
    inside(root, "/opt/wren/venv/bin/python", "-I", "-W", "error", "-c", daemon)
    # whoever runs calls can read the runtime
    inside(root, "/opt/wren/runtime/bin/python", "-I", "-c", "import numpy", user="wren:wren")
    assert inside(root, "getent", "passwd", "wren").rstrip().endswith("/usr/sbin/nologin")

    units = root / "etc/systemd/system"
    assert (units / "wren-supervisord.service").is_file()
    assert (units / "sysinit.target.wants/wren-deadman.timer").is_symlink()
    assert (units / "apt-daily.timer").resolve() == Path("/dev/null")

    assert (root / "etc/machine-id").read_bytes() == b""
    assert not list((root / "etc/ssh").glob("ssh_host_*"))
    assert not list((root / "var/lib/apt/lists").iterdir())
    assert not (root / "tmp/wren").exists()
