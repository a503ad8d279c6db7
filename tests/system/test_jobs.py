"""What a user does: jobs over a fleet in the sandbox, through the real client, daemon, supervisord and slots."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from world import CHECKOUT, World

import wren_worker as wren
from wren_worker.protocol.model import sealed_key

MAP_WITH_LOCAL_MODULE = """
    import json, sys
    import wren_worker as wren
    import shapes

    with wren.executor({backend}) as ex:
        offset = 5
        print(json.dumps(wren.get_all_results(ex.map(lambda x: shapes.area(x) + offset, range({n})))))
"""


def test_a_lambda_that_closes_over_a_local_module(world: World):
    world.launch(2)
    package = world.folder / "shapes"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from pathlib import Path\nfrom .inner import square\n"
        "factor = int((Path(__file__).parent / 'factor.txt').read_text())\n"
        "def area(x): return square(x) * factor\n"
    )
    (package / "inner.py").write_text("def square(x): return x * x\n")
    (package / "factor.txt").write_text("3")
    found = world.run(MAP_WITH_LOCAL_MODULE.format(backend='backend="sqs"', n=1000))
    assert found == [x * x * 3 + 5 for x in range(1000)]


def test_two_jobs_with_different_modules_of_the_same_name(world: World):
    world.launch(1)
    text = MAP_WITH_LOCAL_MODULE.format(backend='backend="sqs"', n=4)
    found = []
    for factor in (2, 7):
        (world.folder / "shapes.py").write_text(f"def area(x): return x * {factor}\n")
        found.append(world.run(text))
    assert found == [[x * 2 + 5 for x in range(4)], [x * 7 + 5 for x in range(4)]]


def test_the_local_backend_needs_no_sandbox_and_leaves_nothing(world: World, tmp_path):
    (world.folder / "shapes.py").write_text("def area(x): return -x\n")
    environ = {k: v for k, v in world.environment().items() if not k.startswith(("AWS_", "WREN_"))}
    environ["TMPDIR"] = str(tmp_path)
    command = world.script(MAP_WITH_LOCAL_MODULE.format(backend='backend="local"', n=1000))
    done = subprocess.run(
        command, env=environ, cwd=world.folder, capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [5 - x for x in range(1000)]
    assert "backend local (a sandbox of this process)" in done.stderr
    left = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(tmp_path) not in left
    assert not [name for name in os.listdir(tmp_path) if name.startswith("wren-sandbox-")]


def test_inline_stops_at_a_breakpoint(world: World):
    command = world.script(
        """
        import wren_worker as wren

        def f(x):
            y = x * 2
            breakpoint()
            return y

        print("got", wren.executor(backend="inline").map(f, [21])[0].result())
        """
    )
    done = subprocess.run(
        command, env=world.environment(), input="p y\nc\n", capture_output=True, text=True, timeout=60, check=True
    )
    assert "(Pdb) 42" in done.stdout
    assert done.stdout.endswith("got 42\n")


def test_without_an_instance_it_says_so_and_completes_once_one_is_there(world: World):
    command = world.script(
        """
        import wren_worker as wren
        print(wren.executor(backend="sqs").call_async(abs, -3).result())
        """
    )
    user = subprocess.Popen(
        command, env=world.environment(), cwd=world.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert user.stderr is not None
    try:
        assert "backend sqs" in user.stderr.readline()
        began = time.monotonic()
        line = user.stderr.readline()
        assert time.monotonic() - began < 6.0
        assert f"no instance in fleet '{world.fleet}'" in line
        assert "wren-standalone" in line
        world.launch(1, ready=False)
        assert user.communicate(timeout=40)[0] == "3\n"
    finally:
        user.kill()
        user.wait()


def test_kill_9_of_a_daemon_in_the_middle_of_a_job(world: World):
    victim, _ = world.launch(2, lease_time=2.0)

    def work(x: int) -> int:
        if x == 0:
            os.system("setsid sleep 300 &")
        time.sleep(0.05)
        return x * 3

    with wren.executor(backend="sqs", progress=False) as executor:
        futures = executor.map(work, range(200))
        world.until(lambda: sum(future.done() for future in futures) > 20)
        daemon = world.daemon(victim)
        slots = daemon.children(recursive=True)
        daemon.send_signal(signal.SIGKILL)
        began = time.monotonic()
        world.until(lambda: not any(p.is_running() and "slot/__main__" in " ".join(_args(p)) for p in slots), 2.0)
        assert time.monotonic() - began < 2.0
        assert wren.get_all_results(futures) == [x * 3 for x in range(200)]
        # by the daemon's restart, what its calls had left is gone too
        world.until(lambda: world.daemon(victim).pid != daemon.pid)
        world.until(lambda: not any("sleep" in p.name() for p in world.processes(victim)), 10.0)


def _args(process) -> list[str]:
    import psutil

    try:
        return process.cmdline()
    except psutil.Error:
        return []


def test_kill_9_of_the_client_then_attach(world: World):
    world.launch(1)
    command = world.script(
        """
        import time, wren_worker as wren

        def slow(x):
            time.sleep(0.05)
            return x * x

        futures = wren.executor(backend="sqs").map(slow, range(100))
        futures[0].result()
        print(futures[0].job_id, flush=True)
        time.sleep(300)
        """
    )
    user = subprocess.Popen(command, env=world.environment(), cwd=world.folder, stdout=subprocess.PIPE, text=True)
    assert user.stdout is not None
    job_id = user.stdout.readline().strip()
    # within two seconds everything is sent, whatever is known of its calls
    assert world.until(lambda: world.operator.store.exists(sealed_key(job_id))) < 5
    user.kill()
    user.wait()
    user.stdout.close()
    found = world.run(
        """
        import json, sys, wren_worker as wren
        print(json.dumps(wren.get_all_results(wren.attach(sys.argv[1], backend="sqs"))))
        """,
        job_id,
        name="again.py",
    )
    assert found == [x * x for x in range(100)]


def test_a_deleted_reply_queue_changes_nothing_but_latency(world: World):
    world.launch(1)
    sqs = world.operator.aws.sqs()
    with wren.executor(backend="sqs", progress=False) as executor:
        futures = executor.map(lambda x: time.sleep(0.03) or x, range(100))
        futures[0].result()
        for url in sqs.list_queues(QueueNamePrefix=world.operator.names.reply_queue(""))["QueueUrls"]:
            sqs.delete_queue(QueueUrl=url)
        assert wren.get_all_results(futures) == list(range(100))


class TwoArguments(Exception):
    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a} and {b}")
        self.a, self.b = a, b


def test_each_kind_of_failure_costs_only_its_own_call(world: World):
    world.launch(1)

    def bad(x: int) -> object:
        if x == 1:
            os._exit(3)
        if x == 2:
            import ctypes

            ctypes.string_at(0)
        if x == 3:
            raise TwoArguments(4, 5)
        if x == 4:
            return (i for i in range(3))
        if x == 5:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            while True:
                time.sleep(1)
        return x

    with wren.executor(backend="sqs", progress=False) as executor:
        futures = executor.map(bad, range(8), timeout=2.0)
        wren.wait(futures)
        errors = [future.exception() for future in futures]
        assert [type(error).__name__ for error in errors] == [
            "NoneType", "SlotCrashed", "SlotCrashed", "TwoArguments", "ResultNotSerializable", "CallTimeout",
            "NoneType", "NoneType",
        ]  # fmt: skip
        assert "returned a non-zero return code" in str(errors[1])
        assert (errors[1].exit_code, errors[2].signal_name) == (3, "SIGSEGV")
        assert isinstance(errors[3], TwoArguments)
        assert (errors[3].a, errors[3].b) == (4, 5)
        assert "in bad" in str(errors[3].__cause__)
        assert "process ran out of time" in str(errors[5])
        assert [futures[i].result() for i in (0, 6, 7)] == [0, 6, 7]
        with pytest.raises(wren.SlotCrashed):
            wren.get_all_results(futures)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_call_that_kills_its_instance_every_time(world: World):
    def killer(x: int) -> int:
        if x == 2:
            import psutil

            # slot, daemon, supervisord, and what plays the machine's PID 1
            machine = next(p for p in psutil.Process().parents() if "sandbox.machine" in " ".join(p.cmdline()))
            machine.kill()
            time.sleep(30)
        return x

    stop = threading.Event()

    def keep_one_alive() -> None:
        while not stop.is_set():
            if not world.operator.machines.instances(world.fleet):
                world.launch(1, ready=False, lease_time=1.0)
            stop.wait(0.1)

    relauncher = threading.Thread(target=keep_one_alive)
    relauncher.start()
    try:
        with wren.executor(backend="sqs", progress=False) as executor:
            futures = executor.map(killer, range(5), chunksize=5)
            wren.wait(futures, timeout=220)
            assert [type(future.exception()).__name__ for future in futures] == [
                "NoneType", "NoneType", "AttemptsExhausted", "NoneType", "NoneType",
            ]  # fmt: skip
            assert [futures[i].result() for i in (0, 1, 3, 4)] == [0, 1, 3, 4]
    finally:
        stop.set()
        relauncher.join()


def test_large_arguments_and_values_come_through(world: World):
    world.launch(1)
    with wren.executor(backend="sqs", progress=False) as executor:
        futures = executor.map(lambda data: data + b"!", [bytes([n]) * 3_000_000 for n in range(6)])
        assert [future.result() for future in futures] == [bytes([n]) * 3_000_000 + b"!" for n in range(6)]
        loud = executor.call_async(lambda n: print("y" * n) or n, 2_000_000)
        assert loud.result() == 2_000_000
        assert len(loud.stdout) == 2_000_001


def test_submits_gather_and_pickled_futures_resolve_elsewhere(world: World):
    world.launch(1)
    import pickle

    with wren.executor(backend="sqs", progress=False) as executor:
        futures = [executor.submit(pow, n, 2) for n in range(30)]
        (world.folder / "futures").write_bytes(pickle.dumps(futures))
        assert wren.get_all_results(futures) == [n * n for n in range(30)]
        assert len({future.job_id for future in futures}) == 1
    found = world.run(
        """
        import json, pickle
        from pathlib import Path
        print(json.dumps([future.result() for future in pickle.loads(Path("futures").read_bytes())]))
        """
    )
    assert found == [n * n for n in range(30)]


def test_leaving_the_interpreter_waits_until_everything_is_sent(world: World):
    job_id = world.run(
        """
        import json, wren_worker as wren
        print(json.dumps(wren.executor(backend="sqs").map(abs, range(-500, 0))[0].job_id))
        """
    )
    world.launch(1)
    assert wren.get_all_results(wren.attach(job_id)) == [abs(x) for x in range(-500, 0)]


def test_the_package_alone_is_quick_to_import(world: World):
    code = "import sys, wren_worker; print([m for m in ('boto3', 'cloudpickle', 'moto', 'rich') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": str(CHECKOUT)}
    )
    assert done.stdout == "[]\n"
