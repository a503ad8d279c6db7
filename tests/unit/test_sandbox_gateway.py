"""What the sandbox counts: requests by operation, and the units that SQS bills for them."""

from __future__ import annotations

import pytest

from wren_worker.sandbox.gateway import Counter

KIB = 1024


@pytest.mark.parametrize(
    ("n_bytes", "units"), [(0, 1), (1, 1), (64 * KIB, 1), (64 * KIB + 1, 2), (128 * KIB, 2), (1024 * KIB, 16)]
)
def test_each_64_kib_of_a_payload_is_a_unit(n_bytes: int, units: int) -> None:
    counter = Counter()
    counter.add("sqs.SendMessageBatch")
    counter.weigh("sqs.SendMessageBatch", n_bytes)
    assert counter.units() == {"sqs.SendMessageBatch": units}
    assert counter.counts() == {"sqs.SendMessageBatch": 1}


def test_operations_without_payload_are_a_unit_each() -> None:
    counter = Counter()
    for name in ("s3.PutObject", "s3.PutObject", "sqs.DeleteMessageBatch"):
        counter.add(name)
    assert counter.units() == counter.counts() == {"s3.PutObject": 2, "sqs.DeleteMessageBatch": 1}
