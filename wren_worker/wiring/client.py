"""The caller's side: ``executor`` and ``attach``, built from settings."""

from __future__ import annotations

import atexit
import functools
import importlib
import os
import secrets
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from wren_worker.aws.sqs import create_reply_queue
from wren_worker.client.attach import attach as attach_to
from wren_worker.client.attach import reading_session, reattach
from wren_worker.client.cancel import cancel_job
from wren_worker.client.executor import Executor
from wren_worker.client.future import Future
from wren_worker.client.inline import Inline
from wren_worker.client.pool import Pool
from wren_worker.client.remote import Remote
from wren_worker.client.session import Session
from wren_worker.client.transport import LONGEST_CALL_TIME, Patience, Ticket, Transport
from wren_worker.clock import SystemClock
from wren_worker.config import Names, Settings, load_settings
from wren_worker.errors import ConfigError
from wren_worker.fleet.setup import setup
from wren_worker.fleet.spec import Launch
from wren_worker.sandbox import control
from wren_worker.wiring.elastic import elastic
from wren_worker.wiring.operator import Operator

__all__ = ["attach", "cancel", "executor", "pool", "restore_future"]

_BACKENDS = ("sqs", "local", "inline")
#: The sandbox of a process lives as long as the process, so its instance never idles out before.
_PRIVATE_LIFETIME = 30 * 86400.0
#: The smallest type that has a vCPU for each core of this machine.
_TYPES = ((2, "c5.large"), (4, "c5.xlarge"), (8, "c5.2xlarge"), (16, "c5.4xlarge"), (36, "c5.9xlarge"))


def executor(
    backend: str | None = None,
    *,
    config: str | Path | Mapping[str, object] | None = None,
    fleet: str | None = None,
    job_max_runtime: float | None = None,
    map_item_limit: int | None = None,
    progress: bool | None = None,
    launch: Launch | None = None,
    terminate_on_exit: bool = False,
) -> Executor:
    """Return an executor; which backend, fleet, account and region it uses is printed in one line.

    Args:
        backend: "sqs" (AWS), "local" (the sandbox that runs, else one of this process's own) or "inline" (this
            process). Default: ``WREN_BACKEND``, the config file, else "sqs" when a fleet is named and "local" when not.
        config: Another config file than ``~/.config/wren/config.toml``, or its content.
        fleet: The fleet's name.
        job_max_runtime: Default of every ``timeout``, in seconds (3600).
        map_item_limit: How many items one ``map`` takes.
        progress: Whether to show a progress bar; default: where somebody looks.
        launch: Instances to start when calls wait for them, ``max_count`` at most; they leave by themselves.
        terminate_on_exit: Whether closing the executor makes the instances that it started finish and leave.

    Raises:
        ConfigError: A setting is wrong, there are no credentials, or the sandbox extra is missing.
    """
    settings = _settings(
        config,
        backend=backend,
        fleet=fleet,
        job_max_runtime=job_max_runtime,
        map_item_limit=map_item_limit,
        progress=progress,
    )
    bounds = {"job_max_runtime": settings.job_max_runtime, "map_item_limit": settings.map_item_limit}
    if terminate_on_exit and launch is None:
        raise ConfigError("terminate_on_exit is about instances that the executor starts: pass launch=Launch(…), too.")
    if _backend(settings) == "inline":
        if launch is not None:
            raise ConfigError("launch= starts instances, and backend='inline' runs calls in this process: drop one.")
        return Executor(Inline(SystemClock()), **bounds)  # type: ignore[arg-type]
    transport = _transport(settings, launch, terminate_on_exit=terminate_on_exit)
    return Executor(Remote(transport, progress=settings.progress), **bounds)  # type: ignore[arg-type]


def pool(**settings: Any) -> Pool:
    """Return a ``concurrent.futures.Executor`` on a fleet; keywords as ``executor``'s."""
    return Pool(executor(**settings))


def attach(
    job_id: str,
    *,
    backend: str | None = None,
    fleet: str | None = None,
    partial: bool = False,
    progress: bool | None = None,
) -> list[Future[object]]:
    """Return the futures of a job's calls, in order, in any process on any machine with access to the fleet.

    Args:
        job_id: The job.
        backend: "sqs" or "local", as for ``executor``.
        fleet: The fleet's name.
        partial: Accept a job whose client ended before all its calls were stored.
        progress: Whether to show a progress bar; default: where somebody looks.

    Raises:
        StoreError: There is no such job in the fleet's bucket.
        JobIncomplete: It is not stored in full; ``partial=True`` returns what there is.
    """
    settings = load_settings(backend=backend, fleet=fleet, progress=progress)
    return attach_to(_transport(settings), job_id, partial=partial, progress=settings.progress)


def cancel(job_id: str, *, settings: Settings) -> tuple[int, int]:
    """Cancel what is unresolved of a job; return ``(calls cancelled by this, calls it has)``.

    Raises:
        StoreError: There is no such job in the fleet's bucket, or not all of it could be recorded.
    """
    return cancel_job(_transport(replace(settings, backend="sqs")), job_id)


def restore_future(backend: str, names: Names, ticket: Ticket) -> object:
    """Return the future of a ticket; what an unpickled future calls, on an instance too."""
    return reattach(_reading(backend, names, os.getpid()), ticket)


@functools.lru_cache(maxsize=8)
def _reading(backend: str, names: Names, _pid: int) -> Session:
    """Return the one session that serves all unpickled futures of a fleet in this process, not in its forks."""
    settings = load_settings(backend=backend, fleet=names.fleet, region=names.region)
    return reading_session(_transport(settings))


def _settings(config: str | Path | Mapping[str, object] | None, **arguments: object) -> Settings:
    if isinstance(config, Mapping):
        given = {name: value for name, value in arguments.items() if value is not None}
        return load_settings(None, **{**config, **given})
    environ = os.environ if config is None else {**os.environ, "WREN_CONFIG": str(config)}
    return load_settings(environ, **arguments)


def _backend(settings: Settings) -> str:
    backend = settings.backend or ("sqs" if settings.fleet else "local")
    if backend not in _BACKENDS:
        raise ConfigError(f"backend='{backend}' is none of {', '.join(_BACKENDS)}.")
    return backend


def _transport(settings: Settings, spec: Launch | None = None, *, terminate_on_exit: bool = False) -> Transport:
    backend = _backend(settings)
    if backend == "local":
        operator, what = _local(settings, populate=spec is None)
    else:
        operator, what = Operator(settings), "sqs"
    names = operator.names
    return Transport(
        names=names,
        backend=backend,
        task_queue=operator.task_queue,
        store=operator.store,
        new_reply_queue=lambda: create_reply_queue(operator.aws, names, secrets.token_hex(8)),
        why_nothing_runs=functools.partial(operator.why_nothing_runs, starts_own=spec is not None),
        describe=f"backend {what}, fleet '{names.fleet}', {operator.place}",
        restore=restore_future,
        clock=operator.clock,
        python=operator.python,
        longest_call_time=min(LONGEST_CALL_TIME, spec.longest_call_time) if spec else LONGEST_CALL_TIME,
        elastic=elastic(operator, spec, terminate_on_exit=terminate_on_exit) if spec else None,
        patience=Patience(lost_time=settings.lost_time),
    )


def _local(settings: Settings, *, populate: bool) -> tuple[Operator, str]:
    """Return the fleet of the sandbox that runs, or of one that lives as long as this process."""
    if os.environ.get("AWS_ENDPOINT_URL"):
        return Operator(settings), "local (the sandbox of the environment)"  # an instance's own, or the exports
    running = control.status(control.default_directory(setting=settings.sandbox_dir))
    if running is not None:
        operator = Operator(settings, exports=running.exports)
        for _ in setup(operator.provisioner, operator.names, pythons=(operator.python,)):
            pass
        return operator, "local (the running sandbox)"
    operator = Operator(settings, exports=_private_sandbox().info.exports)
    _populate(operator, with_instance=populate)
    return operator, "local (a sandbox of this process)"


@functools.lru_cache(maxsize=1)
def _private_sandbox() -> control.PrivateSandbox:
    # a fifth of a second that passes beside the server's start instead of after it
    threading.Thread(target=importlib.import_module, args=["boto3"], name="wren-import", daemon=True).start()
    sandbox = control.private()
    atexit.register(sandbox.close)
    return sandbox


def _populate(operator: Operator, *, with_instance: bool) -> None:
    """Give a private sandbox its fleet and its one instance, unless it has them or an executor starts its own."""
    if operator.machines.instances(operator.names.fleet):
        return
    for _ in setup(operator.provisioner, operator.names, pythons=(operator.python,)):
        pass
    if not with_instance:
        return
    cores = os.cpu_count() or 1
    kind = next((name for n_vcpus, name in _TYPES if n_vcpus >= cores), _TYPES[-1][1])
    spec = Launch(types=(kind,), idle_timeout=_PRIVATE_LIFETIME, max_lifetime=_PRIVATE_LIFETIME)
    operator.launch(spec, launch_id=secrets.token_hex(8))
