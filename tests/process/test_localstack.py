"""A job from end to end over LocalStack's SQS and S3: the client and the daemon as they are, told by two variables."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import localstack_server
import pytest
from rig import ACCOUNT, REGION, Rig

from wren_worker.config import this_python
from wren_worker.wiring.client import attach, executor


@pytest.fixture
def rig_on_localstack(aws_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    (tmp_path / "localstack").mkdir()
    (tmp_path / "rig").mkdir()
    with localstack_server.running(tmp_path / "localstack") as endpoint:
        # IMDS, STS and logs stay where they are
        environ = {"AWS_ENDPOINT_URL_SQS": endpoint, "AWS_ENDPOINT_URL_S3": endpoint}
        # a key of twelve digits is LocalStack's way to name an account
        keys = {"AWS_ACCESS_KEY_ID": ACCOUNT, "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": REGION}
        for name, value in {**environ, **keys, "AWS_ENDPOINT_URL": aws_endpoint, "WREN_REGION": REGION}.items():
            monkeypatch.setenv(name, value)
        made = Rig(endpoint, tmp_path / "rig", "onls", services=aws_endpoint, environ=environ | keys)
        yield made
        made.close()


@pytest.mark.slow
def test_a_job_runs_over_the_second_implementation(rig_on_localstack: Rig):
    rig = rig_on_localstack
    rig.start(slots="2")
    with executor("sqs", fleet=rig.names.fleet, progress=False) as pool:
        futures = pool.map(lambda x: (x + 1, b"y" * (2_000_000 if x == 3 else 1)), range(12), timeout=60)
        values = [future.result(60) for future in futures]
        assert [value for value, _ in values] == list(range(1, 13))
        assert len(values[3][1]) == 2_000_000
    again = attach(futures[0].job_id, backend="sqs", fleet=rig.names.fleet, progress=False)
    assert [future.result(60)[0] for future in again] == list(range(1, 13))
    rig.until(lambda: rig.depth() == (0, 0))
    assert rig.queue.endswith(rig.names.task_queue(this_python()))
