"""A user of the drill's fleet, run in the AWS namespace. Prints one JSON line at the end.

``client.py prepare`` · ``client.py upload FILE KEY`` · ``client.py job N SECONDS CHUNKSIZE`` · ``client.py logs ID``
``client.py hunger N SECONDS``: call 0 eats memory until it is ended
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from network import PORT

import wren_worker as wren
from wren_worker.config import Settings, this_python
from wren_worker.fleet.setup import setup
from wren_worker.wiring.operator import Operator

FLEET = "drill"
RESULT_TIMEOUT = 400.0  # an emulated machine takes its time
EXPORTS = {
    "AWS_ENDPOINT_URL": f"http://127.0.0.1:{PORT}",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_ACCESS_KEY_ID": "AKIADRILL00000000000",
    "AWS_SECRET_ACCESS_KEY": "drill",
}


def prepare() -> dict[str, Any]:
    operator = Operator(Settings(fleet=FLEET), exports=EXPORTS)
    return {"made": len(list(setup(operator.provisioner, operator.names, pythons=(this_python(),))))}


def upload(path: str, key: str) -> dict[str, Any]:
    import boto3

    bucket = Operator(Settings(fleet=FLEET), exports=EXPORTS).names.bucket
    boto3.client("s3").put_object(Bucket=bucket, Key=key, Body=Path(path).read_bytes())
    return {"bucket": bucket}


def logs(instance_id: str) -> dict[str, Any]:
    import boto3

    client = boto3.client("logs")
    group = Operator(Settings(fleet=FLEET), exports=EXPORTS).names.log_group
    found: dict[str, Any] = {}
    for stream in client.describe_log_streams(logGroupName=group)["logStreams"]:
        name = stream["logStreamName"]
        if name.startswith(instance_id):
            events = client.get_log_events(logGroupName=group, logStreamName=name, startFromHead=True)["events"]
            found[name.removeprefix(f"{instance_id}-")] = [
                json.dumps({"timestamp": event["timestamp"] / 1000, **json.loads(event["message"])}) for event in events
            ]
    return found


def job(n_calls: str, seconds: str, chunksize: str) -> dict[str, Any]:
    duration = float(seconds)

    def work(number: int) -> dict[str, Any]:
        began = time.time()
        print(f"call {number}")
        time.sleep(duration)
        return {"number": number, "began": began, "host": os.uname().nodename, "prefix": sys.prefix}

    return _gather(work, int(n_calls), int(chunksize))


def hunger(n_calls: str, seconds: str) -> dict[str, Any]:
    duration = float(seconds)

    def work(number: int) -> dict[str, Any]:
        began = time.time()
        eaten = []
        while number == 0:
            eaten.append(b"x" * (16 << 20))
        time.sleep(duration)
        return {"number": number, "began": began, "host": os.uname().nodename}

    found = _gather(work, int(n_calls), 1)
    eater = [error for error in found["errors"] if error.startswith("0: ")]
    others = [error for error in found["errors"] if error not in eater]
    return {**found, "errors": others, "eater": eater, "lost": found["lost"] - len(eater)}


def _gather(work: Callable[[int], dict[str, Any]], n_calls: int, chunksize: int) -> dict[str, Any]:
    with wren.executor(backend="sqs", fleet=FLEET, progress=False) as ex:
        futures = ex.map(work, range(n_calls), chunksize=chunksize)
        sys.stderr.write("sent\n")
        results, errors = [], []
        for number, future in enumerate(futures):
            try:
                value = future.result(timeout=RESULT_TIMEOUT)
                results.append({**value, "right": value["number"] == number})
            except Exception as error:
                errors.append(f"{number}: {type(error).__name__}: {error}")
    lost = [number for number in range(n_calls) if number not in {r["number"] for r in results if r["right"]}]
    return {"results": results, "errors": errors, "lost": len(lost)}


if __name__ == "__main__":
    os.environ.update(EXPORTS)
    what = {"prepare": prepare, "upload": upload, "logs": logs, "job": job, "hunger": hunger}[sys.argv[1]]
    print(json.dumps(what(*sys.argv[2:])))
