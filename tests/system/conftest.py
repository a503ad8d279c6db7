"""One sandbox per test process, one fleet per test."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from world import World

from wren_worker.sandbox import control


@pytest.fixture(scope="session")
def shared_sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[control.SandboxInfo]:
    with control.private(tmp_path_factory.mktemp("sandbox")) as sandbox:
        yield sandbox.info


@pytest.fixture
def world(shared_sandbox: control.SandboxInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    made = World(shared_sandbox, f"t{secrets.token_hex(4)}", tmp_path)
    for name, value in made.exports.items():
        monkeypatch.setenv(name, value)
    yield made
    made.close()
    assert made.violations() == []
