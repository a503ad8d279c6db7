"""Credentials that AWS calls expired are asked for anew, once, and the request is made again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

from wren_worker.aws.credentials import Renewal
from wren_worker.testing import FakeClock


def answer(code: str) -> Any:
    return SimpleNamespace(status_code=400), {"Error": {"Code": code}}


def role() -> Any:
    return SimpleNamespace(_expiry_time=datetime.now(UTC) + timedelta(hours=5))


def test_an_expired_token_is_renewed_and_tried_again_once():
    credentials = role()
    renewal = Renewal(lambda: credentials, FakeClock())
    assert renewal._needs_retry(answer("ExpiredToken"), 1) == 0.0
    assert credentials._expiry_time <= datetime.now(UTC)
    assert renewal._needs_retry(answer("ExpiredToken"), 2) is None


def test_what_another_thread_has_just_renewed_is_used():
    credentials, clock = role(), FakeClock()
    renewal = Renewal(lambda: credentials, clock)
    renewal._needs_retry(answer("ExpiredTokenException"), 1)
    credentials._expiry_time = fresh = datetime.now(UTC) + timedelta(hours=6)
    assert renewal._needs_retry(answer("ExpiredTokenException"), 1) == 0.0
    assert credentials._expiry_time == fresh
    clock.advance(60)
    assert renewal._needs_retry(answer("com.amazonaws#ExpiredTokenException"), 1) == 0.0
    assert credentials._expiry_time < fresh


def test_other_answers_and_keys_that_never_expire_are_left_to_botocore():
    credentials = role()
    renewal = Renewal(lambda: credentials, FakeClock())
    assert renewal._needs_retry(answer("AccessDenied"), 1) is None
    assert renewal._needs_retry(None, 1) is None
    for forever in (None, SimpleNamespace(), SimpleNamespace(_expiry_time=None)):
        assert Renewal(lambda forever=forever: forever, FakeClock())._needs_retry(answer("ExpiredToken"), 1) is None
