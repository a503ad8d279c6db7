"""User-data: a template of ``cloud-init/`` with an instance's configuration in it. No secrets."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from wren_worker.config import InstanceConfig, shared_file
from wren_worker.errors import ConfigError

__all__ = ["MAX_USER_DATA_BYTES", "Bootstrap", "render"]

#: Source: EC2 RequestLaunchTemplateData, read 2026-11: 16 KB before it is base64-encoded.
MAX_USER_DATA_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Bootstrap:
    """Where an instance finds the archive that brings it what its image lacks (``fleet/bootstrap.py`` builds it)."""

    bucket: str
    key: str
    sha256: str
    region: str

    def __post_init__(self) -> None:
        for name in ("bucket", "key", "sha256", "region"):
            value = getattr(self, name)
            # they become Python and part of a URL on the instance
            if not re.fullmatch(r"[A-Za-z0-9._/-]+", value):
                raise ConfigError(f"{name}={value!r} of the bootstrap archive has characters that a URL would change.")


def render(config: InstanceConfig, *, bootstrap: Bootstrap | None = None) -> str:
    """Return the user-data of an instance.

    Args:
        config: What the instance is told.
        bootstrap: The archive to fetch first; None for an image that has everything.

    Raises:
        ConfigError: It would be larger than EC2 takes.
    """
    tokens = {"__INSTANCE_JSON__": config.to_json()}
    name = "user-data.yaml"
    if bootstrap is not None:
        name = "user-data-bootstrap.yaml"
        tokens |= {
            "__FETCH_PY__": _fetch_program(bootstrap, patience=config.boot_timeout / 3),
            "__BOOT_TIMEOUT__": f"{config.boot_timeout:.0f}",
        }
    text = _fill(shared_file(f"cloud-init/{name}").read_text(encoding="utf-8"), tokens)
    n_bytes = len(text.encode())
    if n_bytes > MAX_USER_DATA_BYTES:
        raise ConfigError(f"The user-data would be {n_bytes} bytes; EC2 takes {MAX_USER_DATA_BYTES}.")
    return text


def _fetch_program(bootstrap: Bootstrap, *, patience: float) -> str:
    facts = (bootstrap.bucket, bootstrap.key, bootstrap.sha256, bootstrap.region, round(patience))
    program = shared_file("cloud-init/fetch.py").read_text(encoding="utf-8")
    lines = [line for line in program.splitlines() if line.strip() and not line.strip().startswith("#")]
    # a level of indentation is one space there
    lines = [" " * ((len(line) - len(line.lstrip())) // 4) + line.lstrip() for line in lines]
    return "\n".join([f"BUCKET, KEY, SHA256, REGION, PATIENCE = {facts!r}", *lines])


def _fill(template: str, tokens: Mapping[str, str]) -> str:
    """Put texts in the place of tokens; a token alone on its line gives its indentation to every line of its text."""
    first, *rest = template.splitlines()
    lines = [first]
    for line in rest:
        if line.startswith("#"):
            continue
        token = line.strip()
        if token in tokens:
            indent = line[: line.index(token)]
            lines += [indent + part for part in tokens[token].splitlines()]
            continue
        lines.append(re.sub(r"__[A-Z_]+__", lambda found: tokens.get(found[0], found[0]), line))
    return "\n".join(lines) + "\n"
