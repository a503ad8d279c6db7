"""An environment in which nothing of the user's own AWS and fleet settings is seen."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

__all__ = ["clean_environment"]


@contextmanager
def clean_environment(exports: Mapping[str, str] | None = None) -> Iterator[None]:
    """Keep the user's settings out of what runs within, and what it sets out of what comes after."""
    kept = dict(os.environ)
    for name in [name for name in os.environ if name.startswith(("AWS_", "WREN_"))]:
        del os.environ[name]
    os.environ["WREN_CONFIG"] = os.devnull
    os.environ.update(exports or {})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(kept)
