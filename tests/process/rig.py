"""A real daemon process over an emulated AWS, and a minimal client that speaks the wire by hand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import boto3
import cloudpickle
import psutil

import wren_worker
from wren_worker.config import InstanceConfig, Names, this_python
from wren_worker.protocol import frames, jobs, records, wire
from wren_worker.protocol.envelope import sha256_hex
from wren_worker.protocol.model import (
    ArgsLocation,
    Chunk,
    JobManifest,
    Limits,
    ResultObject,
    manifest_key,
    result_key,
    result_prefix,
)

ACCOUNT, REGION = "123456789012", "us-east-1"
ROOT = Path(wren_worker.__file__).parent.parent


class Found:
    """One call's outcome as it lies in S3."""

    def __init__(self, record: memoryview, result: ResultObject) -> None:
        head = records.HEAD.unpack_from(record)
        self.status, self.flags, self.attempt = head[1], head[2], head[4]
        self.value = bytes(record[records.HEAD.size : records.HEAD.size + head[9]])
        pieces = records.split_output(record[records.HEAD.size + head[9] :])
        self.output = [piece for piece in pieces if piece[0] != records.STORY]
        self.story = [one for stream, data in pieces if stream == records.STORY for one in json.loads(data)]
        self.start, self.run_time = head[5], head[6]
        self.result = result

    @property
    def error(self) -> str:
        assert self.status == records.ERROR
        return wire.parse_error_value(self.value)[0]


class Rig:
    """One fleet of one instance."""

    def __init__(
        self, endpoint: str, folder: Path, fleet: str, *, services: str = "", environ: Mapping[str, str] | None = None
    ) -> None:
        """``services`` is where what ``endpoint`` does not have is; ``environ`` goes to the daemon too."""
        services = services or endpoint
        self.folder = folder
        self.names = Names(fleet=fleet, account=ACCOUNT, region=REGION)
        self.environ = {
            "AWS_ENDPOINT_URL": services,
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": services + "/",
            "HOME": str(folder),
            "LANG": "C.UTF-8",
        }
        self.environ |= environ or {}
        key = self.environ.get("AWS_ACCESS_KEY_ID", "x")
        keys = {"aws_access_key_id": key, "aws_secret_access_key": "y", "region_name": REGION}
        self.sqs: Any = boto3.client("sqs", endpoint_url=endpoint, **keys)
        self.s3: Any = boto3.client("s3", endpoint_url=endpoint, **keys)
        self.logs: Any = boto3.client("logs", endpoint_url=services, **keys)
        self.queue = self.sqs.create_queue(QueueName=self.names.task_queue(this_python()))["QueueUrl"]
        self.reply = self.sqs.create_queue(QueueName=self.names.reply_queue("r"))["QueueUrl"]
        self.s3.create_bucket(Bucket=self.names.bucket)
        try:
            self.logs.create_log_group(logGroupName=self.names.log_group)
        except self.logs.exceptions.ResourceAlreadyExistsException:
            pass
        for name in ("run", "log", "work", "bin"):
            (folder / name).mkdir()
        stub = folder / "bin" / "systemctl"
        stub.write_text(f'#!/bin/sh\necho "$@" "$PPID" >> {folder}/systemctl.log\n')
        stub.chmod(0o755)
        self.paths = [str(ROOT)]
        self.daemons: list[subprocess.Popen[bytes]] = []
        self._n_jobs = 0

    # --- the daemon ---------------------------------------------------------------------------------------------------

    def start(self, *, under: Sequence[str] = (), **settings: Any) -> subprocess.Popen[bytes]:
        """Start the daemon, ``under`` another program if need be."""
        config = InstanceConfig(
            fleet=self.names.fleet,
            account=ACCOUNT,
            region=REGION,
            python=this_python(),
            **{"idle_timeout": 60.0, "lease_time": 3.0, "kill_grace_time": 0.3, **settings},
        )
        (self.folder / "instance.json").write_text(config.to_json())
        environ = self.environ | {
            "PATH": f"{self.folder}/bin:{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(self.paths),
            "WREN_INSTANCE_CONFIG": str(self.folder / "instance.json"),
            "WREN_RUN_DIR": str(self.folder / "run"),
            "WREN_LOG_DIR": str(self.folder / "log"),
            "WREN_WORK_DIR": str(self.folder / "work"),
            "WREN_CORES": "2",
        }
        with (self.folder / "daemon.log").open("ab") as log:
            daemon = subprocess.Popen(
                [*under, sys.executable, "-m", "wren_worker", "daemon"],
                env=environ,
                stdout=log,
                stderr=log,
                cwd=self.folder,
            )
        self.daemons.append(daemon)
        return daemon

    def close(self) -> None:
        for daemon in self.daemons:
            if daemon.poll() is None:
                daemon.kill()
            daemon.wait()
        # slots die with their daemon, a moment after it
        deadline = time.monotonic() + 3.0
        while self.slot_processes() and time.monotonic() < deadline:
            time.sleep(0.05)

    def slot_processes(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                ours = process.environ().get("WREN_SLOT_OF") == str(self.folder / "run")
                if ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                pass
        return found

    def events(self, name: str) -> list[dict[str, Any]]:
        found = []
        for line in (self.folder / "daemon.log").read_text().splitlines():
            if line.startswith("{"):
                event = json.loads(line)
                if event.get("event") == name:
                    found.append(event)
        return found

    # --- a client -----------------------------------------------------------------------------------------------------

    def job(
        self,
        function: Callable[..., object],
        values: Sequence[object],
        *,
        chunksize: int = 10,
        retry_on: tuple[str, ...] = (),
        **limits: Any,
    ) -> tuple[str, list[Chunk]]:
        """Store a job's manifest; return its id and its chunks, unsent. Arguments always travel inline."""
        self._n_jobs += 1
        job_id = wire.new_job_id(time.time(), os.urandom(12))
        bounds = Limits(**limits)
        manifest = JobManifest(
            job_id=job_id,
            name="t",
            python=this_python(),
            host_submit_timestamp=time.time(),
            limits=bounds,
            retry_on=retry_on,
        )
        key = manifest_key(job_id)
        data, _ = jobs.encode_manifest(key, manifest, function=cloudpickle.dumps(function), modules=b"")
        self.s3.put_object(Bucket=self.names.bucket, Key=key, Body=data)
        chunks, self._args = [], getattr(self, "_args", {})
        for number, start in enumerate(range(0, len(values), chunksize)):
            part = values[start : start + chunksize]
            args = frames.pack_calls((start + i, 1, cloudpickle.dumps(((value,), {}))) for i, value in enumerate(part))
            chunk = Chunk(
                job_id=job_id,
                chunk_id=wire.new_chunk_id(number),
                first_call=start,
                n_calls=len(part),
                python=this_python(),
                manifest_key=key,
                manifest_sha256=sha256_hex(data),
                args=ArgsLocation(key=key, offset=0, length=len(args), sha256=sha256_hex(args)),
                reply_queue=self.reply,
                audience=self.names.audience(self.names.task_queue(this_python())),
                host_send_timestamp=time.time(),
                expiry_timestamp=time.time() + 14 * 86400,
                limits=bounds,
            )
            self._args[job_id, chunk.chunk_id] = args
            chunks.append(chunk)
        return job_id, chunks

    def message(self, chunk: Chunk) -> str:
        return wire.encode_chunk(chunk, self._args[chunk.job_id, chunk.chunk_id])

    def send(self, function: Callable[..., object], values: Sequence[object], **kw: Any) -> str:
        job_id, chunks = self.job(function, values, **kw)
        for chunk in chunks:
            self.sqs.send_message(QueueUrl=self.queue, MessageBody=self.message(chunk))
        return job_id

    def outcomes(self, job_id: str) -> dict[int, Found]:
        found: dict[int, Found] = {}
        for page in self.s3.get_paginator("list_objects_v2").paginate(
            Bucket=self.names.bucket, Prefix=result_prefix(job_id)
        ):
            for item in page.get("Contents", []):
                if "." in item["Key"]:
                    continue
                result, outcomes = wire.decode_result(self.get(item["Key"]))
                for index, record in outcomes:
                    assert index not in found, "a call has two outcomes"
                    found[index] = Found(memoryview(record), result)
        return found

    def get(self, key: str) -> bytes:
        return self.s3.get_object(Bucket=self.names.bucket, Key=key)["Body"].read()

    def collect(self, job_id: str, n_calls: int, timeout: float = 40.0) -> dict[int, Found]:
        deadline = time.monotonic() + timeout
        while len(found := self.outcomes(job_id)) < n_calls:
            assert time.monotonic() < deadline, (sorted(found), (self.folder / "daemon.log").read_text()[-4000:])
            time.sleep(0.05)
        return found

    def put_result(self, result: ResultObject, outcomes: Sequence[bytes]) -> None:
        key = result_key(result.job_id, result.chunk_id)
        self.s3.put_object(Bucket=self.names.bucket, Key=key, Body=wire.encode_result(result, outcomes))

    def depth(self) -> tuple[int, int]:
        found = self.sqs.get_queue_attributes(QueueUrl=self.queue, AttributeNames=["All"])["Attributes"]
        return int(found["ApproximateNumberOfMessages"]), int(found["ApproximateNumberOfMessagesNotVisible"])

    def until(self, done: Callable[[], bool], timeout: float = 30.0) -> None:
        deadline = time.monotonic() + timeout
        while not done():
            assert time.monotonic() < deadline, (self.folder / "daemon.log").read_text()[-4000:]
            time.sleep(0.05)
