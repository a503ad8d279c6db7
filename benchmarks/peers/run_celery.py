"""Celery over the same SQS emulator: a worker with a process per slot, results in a folder or in S3."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import harness

_STOP_TIMEOUT = 10.0
_RESULT_TIMEOUT = 300.0


class CeleryOnSqs(harness.System):
    """One task a call, as Celery has it. ``options["results"]``: "folder" or "s3"."""

    def start(self) -> None:
        self._folder = tempfile.mkdtemp(prefix="bench-celery-")
        os.environ["BENCH_RESULTS"] = f"file://{self._folder}"
        if self.options.get("results") == "s3":
            import boto3

            boto3.client("s3").create_bucket(Bucket="bench-results")
            os.environ["BENCH_RESULTS"] = "s3://"
        from celery_app import run  # reads the place of results when it is imported

        self._run = run
        command = [sys.executable, "-m", "celery", "-A", "celery_app", "worker", "--loglevel=WARNING"]
        command += [f"--concurrency={self.n_workers}", "--without-gossip", "--without-mingle", "--without-heartbeat"]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "C_FORCE_ROOT": "1"}
        self._worker = subprocess.Popen(command, env=environment, cwd=self._folder, stdin=subprocess.DEVNULL)

    def close(self) -> None:
        self._worker.terminate()
        try:
            self._worker.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._worker.kill()
            self._worker.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def snapshot(self) -> dict[str, float]:
        """Return CPU seconds, and AWS requests and billed units by operation."""
        counters = {"cpu_s": harness.tree_cpu_time()}
        for kind in ("requests", "units"):
            with urllib.request.urlopen(f"{os.environ['AWS_ENDPOINT_URL']}/wren/{kind}", timeout=10) as answer:
                counters |= {f"{kind}:{name}": float(count) for name, count in json.load(answer).items()}
        return counters

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        return self.submits(function, items)

    def submits(self, function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        answers = [self._run.delay(function.__name__, item) for item in items]
        return [answer.get(timeout=_RESULT_TIMEOUT, interval=0.005) for answer in answers]


if __name__ == "__main__":
    sys.exit(harness.main(CeleryOnSqs))
