"""An instance's side: the daemon, built from the environment that supervisord gives it."""

from __future__ import annotations

import faulthandler
import os
import selectors
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path

from wren_worker.aws.imds import ImdsMetadata
from wren_worker.aws.logs import CloudWatchSink
from wren_worker.aws.s3 import S3Store
from wren_worker.aws.session import Aws
from wren_worker.aws.sqs import SqsReplySender, SqsTaskQueue
from wren_worker.clock import SystemClock
from wren_worker.config import InstanceConfig, load_instance_config
from wren_worker.daemon.doorbell import Doorbell
from wren_worker.daemon.events import Inbox
from wren_worker.daemon.exits import Exit, power_off
from wren_worker.daemon.intake import Intake
from wren_worker.daemon.leases import LeaseKeeper
from wren_worker.daemon.loop import Daemon
from wren_worker.daemon.memory import Machine, MemoryWatch, protect_daemon
from wren_worker.daemon.needs import Needs
from wren_worker.daemon.notices import Notices
from wren_worker.daemon.outputs import Outputs
from wren_worker.daemon.predecessor import MARK, end_predecessors, mark_value
from wren_worker.daemon.publisher import Publisher
from wren_worker.daemon.receiver import Receiver
from wren_worker.daemon.retire import Retirement
from wren_worker.daemon.room import Room
from wren_worker.daemon.signals import StopSignals
from wren_worker.daemon.slot import Slot
from wren_worker.daemon.vitals import Vitals
from wren_worker.daemon.workload import Workload
from wren_worker.errors import ConfigError
from wren_worker.log import JsonLog

__all__ = ["run_daemon"]

_LOG_CLOSE_TIMEOUT = 5.0
#: How the common numeric libraries are told how many threads to use.
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMEXPR_MAX_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


def run_daemon(environ: Mapping[str, str]) -> int:
    """Run the daemon of this instance; return its exit code.

    Environment: WREN_INSTANCE_CONFIG, WREN_RUN_DIR, WREN_LOG_DIR and WREN_WORK_DIR are the folders and the file that
    the machine's set-up made; WREN_CORES, if set, is how many cores the machine is to count as.
    """
    faulthandler.enable()
    try:
        config = load_instance_config(Path(environ["WREN_INSTANCE_CONFIG"]))
        run_dir, work_dir = Path(environ["WREN_RUN_DIR"]), Path(environ["WREN_WORK_DIR"])
    except (ConfigError, KeyError) as error:
        sys.stderr.write(f"the daemon cannot start: {error}\n")
        return Exit.BAD_CONFIG
    try:
        return _run(config, run_dir, work_dir, environ)
    except Exception:  # noqa: BLE001 - the last words of a defect, then supervisord's turn
        traceback.print_exc()
        return Exit.CRASHED


_CORES_DIGITS = 4


def _cores(environ: Mapping[str, str]) -> int:
    told = environ.get("WREN_CORES", "")
    if told.isascii() and told.isdecimal() and len(told) <= _CORES_DIGITS:
        return max(1, int(told))
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


#: The daemon's own; MALLOC_ARENA_MAX is what supervisord.conf sets for it.
_OWN_VARIABLES = ("WREN_", "SUPERVISOR_", "MALLOC_ARENA_MAX")


def _slot_environ(environ: Mapping[str, str], *, run_dir: Path, threads: int) -> dict[str, str]:
    """Return what a slot's processes see: the machine's environment, without what is the daemon's own."""
    kept = {name: value for name, value in environ.items() if not name.startswith(_OWN_VARIABLES)}
    return kept | dict.fromkeys(_THREAD_VARIABLES, str(threads)) | {MARK: mark_value(run_dir)}


def _run(config: InstanceConfig, run_dir: Path, work_dir: Path, environ: Mapping[str, str]) -> int:
    clock, inbox = SystemClock(), Inbox()
    stop = StopSignals(inbox)
    stop.install()
    metadata = ImdsMetadata(environ)
    instance_id = metadata.instance_id()
    aws = Aws(config.region, account=config.account, on_instance=True)
    # before any other thread wants a client: nothing is received before this one is there
    aws.sqs()
    sink = CloudWatchSink(aws, config.names.log_group, instance_id)
    names = {"instance_id": instance_id, "fleet": config.fleet}
    log = JsonLog(clock, lambda timestamp, fields: sink.put("daemon", timestamp, fields), **names)
    protect_daemon()
    n_ended = end_predecessors(run_dir)
    cores = _cores(environ)
    n_slots = cores if config.slots == "auto" else int(config.slots)
    log.event("started", version=config.version, slots=n_slots, cores=cores, ended_predecessors=n_ended)

    selector = selectors.DefaultSelector()
    slot_environ = _slot_environ(environ, run_dir=run_dir, threads=max(1, cores // n_slots))
    runtime = config.runtime or _image_runtime(environ)
    slots = _slots(runtime, n_slots=n_slots, work_dir=work_dir, environ=slot_environ, selector=selector)
    queue_name = config.names.task_queue(config.python)
    task_queue, store = SqsTaskQueue(aws, queue_name), S3Store(aws, config.names.bucket)
    leases = LeaseKeeper(queue_=task_queue, inbox=inbox, lease_time=config.lease_time, clock=clock, log=log)
    doorbell = Doorbell(
        store=S3Store(aws, config.names.bucket, timeout=config.cancel_interval),
        inbox=inbox,
        interval=config.cancel_interval,
        clock=clock,
        log=log,
    )
    intake = Intake(
        config=config,
        audience=config.names.audience(queue_name),
        instance_id=instance_id,
        store=store,
        folder=work_dir / "args",
        clock=clock,
        rung=doorbell.rung,
    )
    receiver = Receiver(
        queue_=task_queue, intake=intake, leases=leases, inbox=inbox, lease_time=config.lease_time, clock=clock
    )
    publisher = Publisher(
        store=store, replies=SqsReplySender(aws), queue_=task_queue, inbox=inbox, clock=clock, log=log
    )
    workload = Workload(
        slots=slots,
        publisher=publisher,
        leases=leases,
        outputs=Outputs(
            tell=lambda fields: sink.put("tasks", clock.timestamp(), {**names, **fields}),
            folder=work_dir / "outcomes",
        ),
        clock=clock,
        log=log,
        instance_id=instance_id,
        memory=MemoryWatch(slots=slots, machine=Machine(), budget_bytes=config.memory_bytes, clock=clock),
        grace_time=config.kill_grace_time,
        publish_timeout=config.publish_timeout,
    )
    vitals = Vitals(
        config=config, instance_id=instance_id, run_dir=run_dir, n_slots=n_slots, clock=clock, publisher=publisher
    )
    notices = Notices(metadata=metadata, inbox=inbox, clock=clock, log=log)
    for thread in (leases, receiver, publisher, doorbell, notices):
        thread.start()
    code = Daemon(
        slots=slots,
        selector=selector,
        inbox=inbox,
        receiver=receiver,
        workload=workload,
        needs=Needs(store=store, bucket=config.names.bucket, folder=work_dir / "refs", inbox=inbox, log=log),
        doorbell=doorbell,
        room=Room(work_dir, log=log),
        vitals=vitals,
        retirement=_retirement(config, run_dir, clock.monotonic()),
        stop=stop,
        power_off=power_off,
        clock=clock,
        log=log,
    ).run()
    publisher.stop(timeout=_LOG_CLOSE_TIMEOUT)
    leases.stop()
    log.event("stopped", code=int(code))
    sink.close(timeout=_LOG_CLOSE_TIMEOUT)
    sys.stderr.flush()
    os._exit(code)  # a receiver in its long poll and a PUT under way must not hold the exit


def _image_runtime(environ: Mapping[str, str]) -> str:
    """Return the interpreter that the image has for calls; without one they run under the daemon's own."""
    runtime = environ.get("WREN_RUNTIME", "")
    return runtime if os.access(runtime, os.X_OK) else sys.executable


def _slots(
    runtime: str,
    *,
    n_slots: int,
    work_dir: Path,
    environ: dict[str, str],
    selector: selectors.BaseSelector,
) -> list[Slot]:
    program = Path(__file__).resolve().parent.parent / "slot" / "__main__.py"
    return [
        Slot(
            number=number,
            folder=work_dir / "slots" / str(number),
            modules=work_dir / "modules",
            command=(runtime, "-P", str(program)),
            environ=environ,
            selector=selector,
        )
        for number in range(n_slots)
    ]


def _retirement(config: InstanceConfig, run_dir: Path, now: float) -> Retirement:
    """Return the bounds of this instance's life, counted from when its dead-man's timer saw the machine come up."""
    try:
        booted = min(now, float((run_dir / "booted").read_text()))
    except (OSError, ValueError):
        booted = now
    return Retirement(booted=booted, idle_timeout=config.idle_timeout, max_lifetime=config.max_lifetime)
