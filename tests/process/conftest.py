"""Fixtures of the process tests: one emulated AWS per test process, one fleet per test."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from relay import Relay
from rig import Rig


@pytest.fixture(scope="session")
def aws_endpoint() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)  # it has no spot notices, and says so at length
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def relay(rig: Rig, aws_endpoint: str) -> Iterator[Relay]:
    """Stand between the rig's daemons and AWS; the rig's own client goes straight there."""
    made = Relay(aws_endpoint)
    rig.environ |= {"AWS_ENDPOINT_URL": made.endpoint, "AWS_EC2_METADATA_SERVICE_ENDPOINT": made.endpoint + "/"}
    yield made
    rig.close()
    made.close()


@pytest.fixture
def rig(aws_endpoint: str, tmp_path: Path) -> Iterator[Rig]:
    made = Rig(aws_endpoint, tmp_path, f"t{uuid.uuid4().hex[:10]}")
    yield made
    made.close()
    assert made.slot_processes() == []
