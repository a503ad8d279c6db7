"""The image's template and scripts: what packer and shellcheck say, what a policy demands, and a real provisioning."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import chroot
import hcl2
import pytest

import wren_worker
from wren_worker.errors import FleetError
from wren_worker.fleet.image import build_command, pythons, read_result, run_packer

ROOT = Path(wren_worker.__file__).parents[1]
PACKER = ROOT / "packer"
SCRIPTS = sorted((PACKER / "scripts").glob("*.sh"))
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


# --- scripts, environments, pins


def test_shellcheck_finds_nothing():
    assert len(SCRIPTS) >= 7
    shellcheck = Path(sys.executable).with_name("shellcheck")
    run(shellcheck, "--severity=style", *SCRIPTS)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_scripts_stop_at_the_first_error(script):
    assert "\nset -euo pipefail\n" in script.read_text(encoding="utf-8")
    assert os.access(script, os.X_OK)


def wheels(*arguments):
    command = [sys.executable, str(PACKER / "environment_wheels.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("python", pythons())
def test_environments_are_pinned_and_have_mkl_and_no_other_blas(python):
    path = PACKER / f"environment-py{python.replace('.', '')}.yml"
    lines = path.read_text(encoding="utf-8").splitlines()
    entries = [line.strip().removeprefix("- ").split()[0] for line in lines if line.startswith("  - ")]
    assert entries[:4] == ["conda-forge", "nodefaults", f"python={python}", "libblas=*=*mkl"]
    assert not any("openblas" in entry or entry.startswith("nomkl") for entry in entries)
    done = wheels(path)
    required = dict(line.split("==") for line in done.stdout.splitlines())
    assert set(required) == {
        *("numpy", "scipy", "pandas", "scikit-learn", "numba", "pyarrow", "joblib", "threadpoolctl", "cloudpickle")
    }
    assert all(re.fullmatch(r"\d+(\.\d+)+", version) for version in required.values())


def test_cloudpickle_is_one_on_both_sides():
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    ours = re.search(r"^cloudpickle==(\S+)$", text, re.M).group(1)
    for path in PACKER.glob("environment-*.yml"):
        assert f"- cloudpickle={ours}\n" in path.read_text(encoding="utf-8"), path.name


def test_a_line_that_is_no_pin_is_refused(tmp_path):
    (tmp_path / "e.yml").write_text("dependencies:\n  - numpy=1.0\n  - pip:\n      - thing\n", encoding="utf-8")
    done = wheels(tmp_path / "e.yml")
    assert done.returncode != 0
    assert "- pip:" in done.stderr


def test_the_daemon_s_lock_is_what_constraints_pin():
    text = (PACKER / "daemon.lock").read_text(encoding="utf-8")
    locked = dict(re.findall(r"^([\w.-]+)==(\S+)", text, re.M))
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {name.lower().replace("_", "-"): version for name, _, version in (line.partition("==") for line in lines)}
    assert {"boto3", "cloudpickle", "cryptography", "psutil", "supervisor", "watchtower"} <= set(locked)
    assert locked == {name: pinned[name] for name in locked}, "run packer/make_daemon_lock.py"
    assert all("--hash=sha256:" in part for part in re.split(r"^(?=\w)", text, flags=re.M)[1:])


# --- conda: its channels are out of reach here, so a stand-in that answers as conda does

STAND_IN = """
prefix=$3
mkdir -p "$prefix/bin"
cat >"$prefix/bin/conda" <<'END'
#!/bin/sh
case "$1 $2" in
"env create") mkdir -p "$5/lib" && cp "$7" "$5/environment.yml" ;;
list*) printf '# conda 1\\n@EXPLICIT\\n%s\\n' LISTED ;;
esac
END
chmod +x "$prefix/bin/conda"
"""
MKL = "https://c/linux-64/mkl-2026.0.0-h1_0.conda#aa"
NUMPY = "https://c/linux-64/numpy-2.4.6-py311_0.conda#bb"


def provision_conda(tmp_path, require_tool, listed, *, sha256=""):
    require_tool("curl")
    installer = tmp_path / "installer.sh"
    installer.write_text(STAND_IN.replace("LISTED", " ".join(listed)), encoding="utf-8")
    environ = {
        "PATH": os.environ["PATH"],
        "WREN_FILES": str(ROOT),
        "WREN_PYTHON_MINOR": "3.11",
        "WREN_RUNTIME": "conda",
        "WREN_SLIM": "false",
        "WREN_RUNTIME_PREFIX": str(tmp_path / "wren/runtime"),
        "WREN_ETC": str(tmp_path / "etc"),
        "WREN_MINIFORGE_URL": installer.as_uri(),
        "WREN_MINIFORGE_SHA256": sha256 or hashlib.sha256(installer.read_bytes()).hexdigest(),
    }
    command = ["bash", str(PACKER / "scripts/runtime.sh")]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)


def test_the_runtime_is_listed_by_hash_without_what_changes_from_day_to_day(tmp_path, require_tool):
    done = provision_conda(tmp_path, require_tool, [NUMPY, MKL])
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "etc/runtime-explicit.txt").read_text(encoding="utf-8") == f"{MKL}\n{NUMPY}\n"
    assert (
        (tmp_path / "wren/runtime/environment.yml")
        .read_text(encoding="utf-8")
        .startswith("# The runtime of Python 3.11")
    )
    assert not (tmp_path / "wren/miniforge").exists()


def test_an_installer_that_is_not_the_pinned_one_is_not_run(tmp_path, require_tool):
    done = provision_conda(tmp_path, require_tool, [MKL], sha256="0" * 64)
    assert done.returncode == 1
    assert "not what was pinned" in done.stderr
    assert not (tmp_path / "wren").exists()


@pytest.mark.parametrize(
    ("listed", "told"),
    [
        ([NUMPY], "no MKL"),
        ([MKL, "https://c/noarch/nomkl-1.0-h5_0.tar.bz2#cc"], "another BLAS"),
        ([MKL, "https://c/linux-64/libopenblas-0.3-p_0.conda#cc"], "another BLAS"),
    ],
)
def test_an_environment_with_another_blas_makes_no_image(tmp_path, require_tool, listed, told):
    done = provision_conda(tmp_path, require_tool, listed)
    assert done.returncode == 1
    assert told in done.stderr


# --- the whole of it, over ssh into a Debian 12, by packer


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
    assert (units / "timers.target.wants/wren-deadman.timer").is_symlink()
    assert (units / "apt-daily.timer").resolve() == Path("/dev/null")

    assert (root / "etc/machine-id").read_bytes() == b""
    assert not list((root / "etc/ssh").glob("ssh_host_*"))
    assert not list((root / "var/lib/apt/lists").iterdir())
    assert not (root / "tmp/wren").exists()
