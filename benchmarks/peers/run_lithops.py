"""Lithops on localhost: functions, arguments and results are files, a runner process per call slot."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any

import harness
import lithops


class Lithops(harness.System):
    """One activation a call, as Lithops has it."""

    def start(self) -> None:
        config = {
            "lithops": {"backend": "localhost", "storage": "localhost", "telemetry": False, "log_level": "ERROR"},
            "localhost": {"runtime": sys.executable, "worker_processes": self.n_workers},
            "localhost_storage": {"storage_bucket": "bench"},
        }
        self._executor = lithops.FunctionExecutor(config=config)

    def close(self) -> None:
        self._executor.clean(clean_cloudobjects=True)
        self._executor.__exit__(None, None, None)

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        futures = self._executor.map(function, list(items))
        return list(self._executor.get_result(futures))

    def submits(self, function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        futures = [self._executor.call_async(function, item) for item in items]
        return list(self._executor.get_result(futures))

    def call(self, function: Callable[[Any], Any], item: Any) -> Any:
        return self._executor.get_result(self._executor.call_async(function, item))


if __name__ == "__main__":
    sys.exit(harness.main(Lithops))
