"""User-data: the template in ``cloud-init/`` with an instance's configuration in it. No secrets."""

from __future__ import annotations

from wren_worker.config import InstanceConfig, shared_file
from wren_worker.errors import ConfigError

__all__ = ["MAX_USER_DATA_BYTES", "render"]

#: Source: EC2 RequestLaunchTemplateData, read 2026-11: 16 KB before it is base64-encoded.
MAX_USER_DATA_BYTES = 16 * 1024
_TOKEN = "__INSTANCE_JSON__"  # noqa: S105 - a placeholder


def render(config: InstanceConfig) -> str:
    """Return the user-data of an instance.

    Raises:
        ConfigError: It would be larger than EC2 takes.
    """
    lines: list[str] = []
    for line in shared_file("cloud-init/user-data.yaml").read_text(encoding="utf-8").splitlines():
        if line.strip() == _TOKEN:
            indent = line[: line.index(_TOKEN)]
            lines += [indent + part for part in config.to_json().splitlines()]
        else:
            lines.append(line)
    text = "\n".join(lines) + "\n"
    n_bytes = len(text.encode())
    if n_bytes > MAX_USER_DATA_BYTES:
        raise ConfigError(f"The user-data would be {n_bytes} bytes; EC2 takes {MAX_USER_DATA_BYTES}.")
    return text
