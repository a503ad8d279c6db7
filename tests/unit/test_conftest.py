"""The fixtures that every test relies on."""

import os
import socket
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sessions and signals")


def test_nothing_of_the_host_leaks_in(isolated, tmp_path):
    assert not [name for name in os.environ if name.startswith(("AWS_", "WREN_", "SUPERVISOR_"))]
    assert os.path.expanduser("~") == str(isolated)
    assert os.environ["XDG_CONFIG_HOME"].startswith(str(tmp_path))


def test_processes_are_ended_with_the_test(processes):
    child = processes(["sleep", "60"])
    assert [process.pid for process in processes.alive()] == [child.pid]
    assert processes.end() == []
    assert child.returncode is not None


def test_what_a_process_leaves_in_a_session_of_its_own_is_found_and_ended(processes):
    processes.stop_timeout = 0.5
    script = "import subprocess; subprocess.Popen(['sleep', '60'], start_new_session=True)"
    processes([sys.executable, "-c", script]).wait(20)
    [left] = processes.end()
    assert left.endswith("sleep 60")


def test_a_process_that_ignores_sigterm_is_killed(processes):
    processes.stop_timeout = 0.5
    child = processes(["sh", "-c", "trap '' TERM; echo ready; sleep 60"], stdout=subprocess.PIPE)
    child.stdout.readline()
    assert processes.end() == []
    assert child.returncode == -9


def test_a_free_port_can_be_bound(free_port):
    with socket.socket() as server:
        server.bind(("127.0.0.1", free_port))


def test_a_missing_tool_skips(require_tool):
    assert require_tool("sh")
    with pytest.raises((pytest.skip.Exception, pytest.fail.Exception)):
        require_tool("no-such-program")


def test_a_deadline_waits_until_the_condition_holds(deadline):
    asked = []
    deadline(lambda: asked.append(1) or len(asked) == 3)
    assert len(asked) == 3


def test_a_deadline_that_passes_says_which_condition(deadline):
    with pytest.raises(pytest.fail.Exception, match=r"0\.05 s.*test_conftest\.py"):
        deadline(lambda: False, timeout=0.05)
