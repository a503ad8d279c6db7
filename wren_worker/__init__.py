"""Run plain Python functions over thousands of inputs on your own EC2 instances.

The public names; each is imported when it is first used, so that importing the package costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wren_worker.client.attempts import Attempt
    from wren_worker.client.executor import Executor
    from wren_worker.client.future import Future
    from wren_worker.client.retry import Retry
    from wren_worker.client.waiting import (
        ALL_COMPLETED,
        ALWAYS,
        ANY_COMPLETED,
        as_completed,
        get_all_results,
        wait,
    )
    from wren_worker.errors import (
        AttemptsExhausted,
        CallCancelled,
        CallError,
        CallTimeout,
        ChunkLost,
        ConfigError,
        FleetError,
        JobIncomplete,
        OutOfMemory,
        QueueError,
        RefUnavailable,
        ResultNotSerializable,
        ResultTampered,
        RuntimeMismatch,
        SerializationError,
        SlotCrashed,
        StoreError,
        WrenError,
    )
    from wren_worker.fleet.spec import Launch
    from wren_worker.protocol.refs import Ref
    from wren_worker.version import VERSION as __version__  # noqa: N811 - the name that tools look for
    from wren_worker.wiring.client import attach, executor, pool

__all__ = [
    "ALL_COMPLETED",
    "ALWAYS",
    "ANY_COMPLETED",
    "Attempt",
    "AttemptsExhausted",
    "CallCancelled",
    "CallError",
    "CallTimeout",
    "ChunkLost",
    "ConfigError",
    "Executor",
    "FleetError",
    "Future",
    "JobIncomplete",
    "Launch",
    "OutOfMemory",
    "QueueError",
    "Ref",
    "RefUnavailable",
    "ResultNotSerializable",
    "ResultTampered",
    "Retry",
    "RuntimeMismatch",
    "SerializationError",
    "SlotCrashed",
    "StoreError",
    "WrenError",
    "__version__",
    "as_completed",
    "attach",
    "executor",
    "get_all_results",
    "pool",
    "wait",
]

_HOMES = {
    "ALL_COMPLETED": "client.waiting",
    "ALWAYS": "client.waiting",
    "ANY_COMPLETED": "client.waiting",
    "Attempt": "client.attempts",
    "Executor": "client.executor",
    "Future": "client.future",
    "Ref": "protocol.refs",
    "Retry": "client.retry",
    "Launch": "fleet.spec",
    "as_completed": "client.waiting",
    "attach": "wiring.client",
    "executor": "wiring.client",
    "get_all_results": "client.waiting",
    "pool": "wiring.client",
    "wait": "client.waiting",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from wren_worker.version import VERSION

        return VERSION
    if name not in __all__:
        raise AttributeError(f"module 'wren_worker' has no attribute '{name}'")
    value = getattr(importlib.import_module(f"wren_worker.{_HOMES.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
