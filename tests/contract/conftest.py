"""AWS on loopback: moto as it is, the sandbox, which mends it, and LocalStack, which shares no code with them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import localstack_server
import pytest

from wren_worker.aws.session import Aws
from wren_worker.sandbox import control

ACCOUNT, REGION = "123456789012", "us-east-1"


def _identity(endpoint: str, account: str, region: str) -> Aws:
    exports = {"AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y"}
    return Aws(region, account=account, exports=exports)


@pytest.fixture(scope="session")
def moto_aws() -> Iterator[Aws]:
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield _identity(f"http://{host}:{port}", ACCOUNT, REGION)
    server.stop()


@pytest.fixture(scope="session")
def sandbox_aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aws]:
    folder: Path = tmp_path_factory.mktemp("sandbox")
    with control.private(folder / "sandbox") as sandbox:
        yield _identity(sandbox.info.endpoint, ACCOUNT, sandbox.info.region)


@pytest.fixture(scope="session")
def localstack_aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aws]:
    with localstack_server.running(tmp_path_factory.mktemp("localstack")) as endpoint:
        yield _identity(endpoint, localstack_server.ACCOUNT, localstack_server.REGION)
