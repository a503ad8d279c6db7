"""A real sandbox, a proxy before it, and boto3 clients that go through it."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.config import Config

from wren_worker.chaos.faults import Refuse
from wren_worker.chaos.proxy import FaultProxy
from wren_worker.chaos.script import Rule
from wren_worker.sandbox import control


@pytest.fixture(scope="session")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[control.SandboxInfo]:
    with control.private(tmp_path_factory.mktemp("sandbox")) as sandbox:
        yield sandbox.info


class Bench:
    """One queue, one bucket, and who talks to them through the proxy."""

    def __init__(self, proxy: FaultProxy) -> None:
        self.proxy = proxy
        self.record = proxy.record
        self.sqs = self.client("sqs")
        self.s3 = self.client("s3")
        name = f"t{secrets.token_hex(5)}"
        self.queue = self.sqs.create_queue(QueueName=name)["QueueUrl"]
        self.bucket = name
        self.s3.create_bucket(Bucket=name)

    def client(self, service: str, *, tries: int = 1, read_timeout: float = 5.0, token: str | None = None) -> Any:
        return boto3.client(
            service,
            endpoint_url=self.proxy.endpoint,
            region_name="us-east-1",
            aws_access_key_id="x",
            aws_secret_access_key="y",
            aws_session_token=token,
            config=Config(
                retries={"mode": "standard", "total_max_attempts": tries},
                read_timeout=read_timeout,
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )

    def instance(self, service: str, number: int = 1, **kw: Any) -> Any:
        """Return a client that signs as an instance of the sandbox does."""
        return self.client(service, token=f"sandbox-i-{number:017x}", **kw)

    def rule(self, fault: Any, operation: str, **kw: Any) -> None:
        self.proxy.script.add(Rule(fault=fault, operation=operation, **kw))

    def refuse(self, code: str, operation: str, **kw: Any) -> None:
        self.rule(Refuse(code=code, **kw), operation)

    def send(self, *bodies: str) -> None:
        for body in bodies:
            self.sqs.send_message(QueueUrl=self.queue, MessageBody=body)

    def receive(self, client: Any = None, **kw: Any) -> list[dict[str, Any]]:
        wanted = {"MaxNumberOfMessages": 10, "VisibilityTimeout": 30, "WaitTimeSeconds": 1, **kw}
        found = (client or self.sqs).receive_message(
            QueueUrl=self.queue, MessageSystemAttributeNames=["ApproximateReceiveCount"], **wanted
        )
        messages: list[dict[str, Any]] = found.get("Messages", [])
        return messages

    def depth(self) -> int:
        found = self.sqs.get_queue_attributes(QueueUrl=self.queue, AttributeNames=["All"])["Attributes"]
        return int(found["ApproximateNumberOfMessages"]) + int(found["ApproximateNumberOfMessagesNotVisible"])


@pytest.fixture
def bench(aws: control.SandboxInfo) -> Iterator[Bench]:
    with FaultProxy(aws.endpoint) as proxy:
        yield Bench(proxy)
    assert [note for note in proxy.record.notes if note.kind.startswith("defect")] == []
