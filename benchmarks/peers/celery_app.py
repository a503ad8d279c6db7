"""The Celery application that its worker and its client share; the emulator's address comes from the environment."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import urlsplit

import tasks
from celery import Celery

_endpoint = urlsplit(os.environ["AWS_ENDPOINT_URL"])
_keys = f"{os.environ['AWS_ACCESS_KEY_ID']}:{os.environ['AWS_SECRET_ACCESS_KEY']}"

app = Celery("bench")
app.conf.update(
    broker_url=f"sqs://{_keys}@{_endpoint.netloc}",
    broker_transport_options={
        "region": os.environ["AWS_DEFAULT_REGION"],
        "is_secure": False,
        "visibility_timeout": 3600,
        "wait_time_seconds": 10,
        "polling_interval": 0,  # the default adds a second to whoever waits at an empty queue
    },
    # SQS carries no results: a folder ("file://…") costs least, a bucket ("s3://") keeps them as ours are kept
    result_backend=os.environ["BENCH_RESULTS"],
    s3_bucket="bench-results",
    s3_endpoint_url=os.environ["AWS_ENDPOINT_URL"],
    s3_access_key_id=os.environ["AWS_ACCESS_KEY_ID"],
    s3_secret_access_key=os.environ["AWS_SECRET_ACCESS_KEY"],
    s3_region=os.environ["AWS_DEFAULT_REGION"],
    task_serializer="pickle",
    result_serializer="pickle",
    accept_content=["pickle", "json"],
    task_default_queue="bench",
)


@app.task(name="run")
def run(function: str, argument: Any) -> Any:
    """Run one of our functions by name."""
    return getattr(tasks, function)(argument)
