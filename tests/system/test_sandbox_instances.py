"""Local instances: they boot from user-data, end in every way, and never leave a process."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import boto3
import pytest

from wren_worker.config import shared_file, this_python
from wren_worker.sandbox import control, processes

WORKLOAD = """
import os, signal, subprocess, sys, time
from pathlib import Path

run = Path(os.environ["WREN_RUN_DIR"])
# a grandchild in a session of its own that ignores TERM and lost its parent
subprocess.run([sys.executable, "-c", '''
import os, signal, subprocess, sys
code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
child = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
open(os.environ["WREN_RUN_DIR"] + "/grandchild", "w").write(str(child.pid))
'''], check=True)
(run / "environment").write_text("\\n".join(f"{k}={v}" for k, v in os.environ.items()))
(run / "up.new").write_text(str(os.getpid()))
os.replace(run / "up.new", run / "up")
time.sleep(600)
"""

CONF = """
[supervisord]
nodaemon=true
logfile=%(ENV_WREN_LOG_DIR)s/supervisord.log
pidfile=%(ENV_WREN_RUN_DIR)s/supervisord.pid
[unix_http_server]
file=%(ENV_WREN_RUN_DIR)s/supervisor.sock
[program:workload]
command=%(ENV_WREN_PYTHON)s {program}
startsecs=0
"""


def await_(condition, timeout=30.0):
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError("it did not happen in time")


class Rig:
    def __init__(self, directory: Path):
        self.directory = directory
        program = directory / "workload.py"
        program.write_text(WORKLOAD)
        self.conf = directory / "supervisord.conf"
        self.conf.write_text(CONF.format(program=program))
        self.info = control.up(directory / "sb", supervisord_conf=self.conf)
        session = boto3.Session(
            aws_access_key_id="AKIAWRENSANDBOX00000", aws_secret_access_key="x", region_name=self.info.region
        )
        self.ec2 = session.client("ec2", endpoint_url=self.info.endpoint)
        self.iam = session.client("iam", endpoint_url=self.info.endpoint)
        filters = [{"Name": "tag:wren:python", "Values": [this_python()]}]
        self.image = self.ec2.describe_images(Owners=["self"], Filters=filters)["Images"][0]["ImageId"]

    @property
    def marker(self):
        return f"IN_WREN_SANDBOX={self.info.directory}"

    def launch(self, count=1, *, user_data=None, behaviour="terminate", **settings):
        if user_data is None:
            content = json.dumps({"fleet": "x", **settings}, indent=1).replace("\n", "\n      ")
            template = shared_file("cloud-init/user-data.yaml").read_text()
            user_data = template.replace("__INSTANCE_JSON__", content)
        answer = self.ec2.run_instances(
            ImageId=self.image,
            InstanceType="c5.xlarge",
            MinCount=count,
            MaxCount=count,
            UserData=user_data,
            InstanceInitiatedShutdownBehavior=behaviour,
            MetadataOptions={"InstanceMetadataTags": "enabled", "HttpTokens": "required"},
            TagSpecifications=[{"ResourceType": "instance", "Tags": [{"Key": "wren:fleet", "Value": "x"}]}],
        )
        return [instance["InstanceId"] for instance in answer["Instances"]]

    def folder(self, instance_id):
        return self.info.directory / "instances" / instance_id

    def await_up(self, *ids):
        for instance_id in ids:
            await_(lambda i=instance_id: (self.folder(i) / "run" / "up").exists())

    def describe(self, instance_id):
        return self.ec2.describe_instances(InstanceIds=[instance_id])["Reservations"][0]["Instances"][0]

    def await_state(self, instance_id, state, timeout=30.0):
        return await_(lambda: (found := self.describe(instance_id))["State"]["Name"] == state and found, timeout)

    def processes_of(self, instance_id):
        return processes.marked(f"IN_WREN_SANDBOX_INSTANCE={instance_id}")

    def grandchild(self, instance_id):
        return int((self.folder(instance_id) / "run" / "grandchild").read_text())

    def environment(self, instance_id):
        text = (self.folder(instance_id) / "run" / "environment").read_text()
        return dict(line.partition("=")[::2] for line in text.splitlines())

    def callers(self, instance_id):
        lines = (self.folder(instance_id) / "log" / "systemctl.log").read_text().splitlines()
        return [json.loads(line) for line in lines]


@pytest.fixture
def rig(tmp_path):
    made = Rig(tmp_path)
    yield made
    control.down(made.info.directory)
    assert processes.marked(made.marker) == []


def test_boots_from_user_data_with_its_own_identity(rig):
    ids = rig.launch(2)
    rig.await_up(*ids)
    for instance_id in ids:
        environment = rig.environment(instance_id)
        folder = rig.folder(instance_id)
        assert json.loads((folder / "etc/wren/instance.json").read_text()) == {"fleet": "x"}
        assert environment["WREN_INSTANCE_CONFIG"] == str(folder / "etc/wren/instance.json")
        assert environment["AWS_ENDPOINT_URL"] == rig.info.endpoint
        assert environment["IN_WREN_SANDBOX_INSTANCE"] == instance_id
        assert int(environment["WREN_CORES"]) >= 1
        assert not {"AWS_ACCESS_KEY_ID", "AWS_DEFAULT_REGION", "AWS_PROFILE"} & set(environment)
        code = (
            "from botocore.utils import IMDSFetcher as F; import os;"
            "f = F(base_url=os.environ['AWS_EC2_METADATA_SERVICE_ENDPOINT'], env={});"
            "t = f._fetch_metadata_token();"
            "print(f._get_request('latest/meta-data/instance-id', None, token=t).text,"
            "f._get_request('latest/meta-data/tags/instance/wren:fleet', None, token=t).text)"
        )
        said = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert said.stdout.split() == [instance_id, "x"]
    identities = {rig.environment(instance_id)["AWS_EC2_METADATA_SERVICE_ENDPOINT"] for instance_id in ids}
    assert len(identities) == 2
    assert "machine.on" in rig.ec2.get_console_output(InstanceId=ids[0], Latest=True)["Output"]


def test_own_power_off_terminates_and_names_its_caller(rig):
    [instance_id] = rig.launch()
    rig.await_up(instance_id)
    grandchild = rig.grandchild(instance_id)
    assert processes.alive(grandchild)
    subprocess.run(["systemctl", "poweroff"], env=rig.environment(instance_id), check=True)
    found = rig.await_state(instance_id, "terminated")
    assert found["StateReason"]["Code"] == "Client.InstanceInitiatedShutdown"
    assert rig.processes_of(instance_id) == []
    assert not processes.alive(grandchild)
    [call] = [call for call in rig.callers(instance_id) if call["arguments"] == ["poweroff"]]
    assert call["caller_pid"] == os.getpid()
    assert call["caller"] == processes.command_line(os.getpid())


def test_own_power_off_stops_when_the_launch_said_so(rig):
    [instance_id] = rig.launch(behaviour="stop")
    rig.await_up(instance_id)
    subprocess.run(["systemctl", "poweroff", "--force"], env=rig.environment(instance_id), check=True)
    found = rig.await_state(instance_id, "stopped")
    assert found["StateReason"]["Code"] == "Client.InstanceInitiatedShutdown"
    assert rig.processes_of(instance_id) == []


def test_terminate_instances_ends_the_whole_tree(rig):
    [instance_id] = rig.launch()
    rig.await_up(instance_id)
    grandchild = rig.grandchild(instance_id)
    rig.ec2.terminate_instances(InstanceIds=[instance_id])
    found = rig.await_state(instance_id, "terminated")
    assert found["StateReason"]["Code"] == "Client.UserInitiatedShutdown"
    assert rig.processes_of(instance_id) == []
    assert not processes.alive(grandchild)


def test_killed_sandbox_leaves_no_process(rig):
    ids = rig.launch(2)
    rig.await_up(*ids)
    assert processes.marked(rig.marker)
    os.kill(rig.info.pid, signal.SIGKILL)
    await_(lambda: not processes.marked(rig.marker), timeout=15)
    assert control.status(rig.info.directory) is None


def test_down_leaves_no_process_and_up_is_idempotent(rig):
    assert control.up(rig.info.directory).pid == rig.info.pid
    ids = rig.launch(2)
    rig.await_up(*ids)
    assert {machine["instance_id"] for machine in control.machines(rig.info)} == set(ids)
    assert control.down(rig.info.directory)
    assert processes.marked(rig.marker) == []
    assert not processes.alive(rig.info.pid)
    assert not control.down(rig.info.directory)
    assert control.status(rig.info.directory) is None


def test_crash_says_so(rig):
    [instance_id] = rig.launch()
    rig.await_up(instance_id)
    control.crash(rig.info, instance_id)
    assert rig.await_state(instance_id, "terminated")["StateReason"]["Code"] == "Server.InternalError"
    assert rig.processes_of(instance_id) == []


def test_killed_machine_takes_its_tree_along(rig):
    [instance_id] = rig.launch()
    rig.await_up(instance_id)
    [machine] = control.machines(rig.info)
    os.kill(machine["pid"], signal.SIGKILL)
    assert rig.await_state(instance_id, "terminated")["StateReason"]["Code"] == "Server.InternalError"
    assert rig.processes_of(instance_id) == []


def test_spot_interruption_gives_notice_and_then_takes_the_instance(rig):
    [instance_id] = rig.launch()
    rig.await_up(instance_id)
    control.interrupt(rig.info, instance_id, notice_time=0.5)
    found = rig.await_state(instance_id, "terminated")
    assert found["StateReason"]["Code"] == "Server.SpotInstanceTermination"


def test_supervisord_is_restarted_and_then_given_up(rig):
    [instance_id] = rig.launch()
    rig.await_up(instance_id)
    grandchild = rig.grandchild(instance_id)
    pid_file = rig.folder(instance_id) / "run" / "supervisord.pid"

    def kill():
        if rig.describe(instance_id)["State"]["Name"] == "terminated":
            return True
        try:
            os.kill(int(pid_file.read_text()), signal.SIGKILL)
        except (OSError, ValueError):
            pass
        return False

    await_(kill, timeout=60)
    assert not processes.alive(grandchild)
    last = rig.callers(instance_id)[-1]
    assert (last["caller"], last["arguments"]) == ("systemd", ["poweroff", "--force"])
    assert rig.describe(instance_id)["StateReason"]["Code"] == "Client.InstanceInitiatedShutdown"


@pytest.mark.parametrize("user_data", ["#cloud-config\nruncmd: [", "#cloud-config\nruncmd:\n  - sleep 600\n"])
def test_failed_boot_is_ended_by_the_dead_man(tmp_path, user_data):
    # the configuration never arrives, so the script's own defaults rule: here they are short
    script = tmp_path / "deadman.py"
    text = shared_file("cloud-init/deadman.py").read_text()
    script.write_text(text.replace('"boot_timeout": 900.0', '"boot_timeout": -1.0'))
    info = control.up(tmp_path / "sb", deadman=script)
    try:
        session = boto3.Session(aws_access_key_id="x", aws_secret_access_key="x", region_name=info.region)
        ec2 = session.client("ec2", endpoint_url=info.endpoint)
        image = ec2.describe_images(Owners=["self"])["Images"][0]["ImageId"]
        answer = ec2.run_instances(
            ImageId=image,
            InstanceType="c5.large",
            MinCount=1,
            MaxCount=1,
            UserData=user_data,
            InstanceInitiatedShutdownBehavior="terminate",
        )
        instance_id = answer["Instances"][0]["InstanceId"]
        log = info.directory / "instances" / instance_id / "log" / "systemctl.log"
        await_(lambda: log.exists() and not control.machines(info))
        assert "deadman.py" in json.loads(log.read_text().splitlines()[-1])["caller"]
    finally:
        control.down(info.directory)


def test_deep_folder_still_has_sockets(tmp_path):
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    deep.mkdir(parents=True)
    rig = Rig(deep)
    try:
        [instance_id] = rig.launch()
        rig.await_up(instance_id)
        run_dir = Path(rig.environment(instance_id)["WREN_RUN_DIR"])
        assert len(str(run_dir)) < 80
        assert (run_dir / "supervisor.sock").is_socket()
        alias = run_dir.parent
    finally:
        control.down(rig.info.directory)
    assert not alias.exists()
    assert not alias.parent.exists()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_private_sandbox_ends_with_its_owner(tmp_path, how):
    code = (
        "import sys, time; from pathlib import Path; from wren_worker.sandbox import control;"
        f"s = control.private(Path({str(tmp_path / 'sb')!r})); print(s.info.pid, flush=True); time.sleep(600)"
    )
    owner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        pid = int(owner.stdout.readline())
        assert processes.alive(pid)
        owner.send_signal(how)
        owner.wait(20)
        await_(lambda: not processes.alive(pid), timeout=15)
    finally:
        owner.kill()
        owner.wait()
        owner.stdout.close()
