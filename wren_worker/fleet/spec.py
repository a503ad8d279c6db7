"""What a launch asks for, checked before anything is asked of AWS."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from wren_worker.errors import ConfigError

__all__ = ["Launch", "parse_time"]

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
#: EC2 asks to break up larger requests. Source: RunInstances, read 2026-11.
_MAX_COUNT = 500
#: A process each; no instance type has more vCPUs to run them on.
_MAX_SLOTS = 1024


def parse_time(text: str) -> float:
    """Return the seconds of "90", "90s", "5m", "8h" or "1.5d".

    Raises:
        ConfigError: It is none of these.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", text.strip())
    if match is None:
        raise ConfigError(f"'{text}' is no time. Write seconds, or a number with s, m, h or d: 90s, 5m, 8h.")
    return float(match[1]) * _UNITS[match[2]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """A launch, as in ``wren-standalone launch``. Times in seconds.

    ``image`` is an AMI id or "auto" (the newest own image tagged for the Python minor); ``slots`` is "auto" (one per
    core) or a number; ``max_price`` is dollars an hour for spot, "" for AWS's own bound.
    """

    count: int = 1
    types: tuple[str, ...] = ("c5.xlarge",)
    spot: bool = False
    idle_timeout: float = 300.0
    max_lifetime: float = 28800.0
    max_price: str = ""
    slots: str = "auto"
    image: str = "auto"
    lease_time: float = 90.0
    stale_timeout: float = 300.0
    boot_timeout: float = 900.0
    deadman_interval: float = 30.0
    subnets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if type(self.count) is not int or not 1 <= self.count <= _MAX_COUNT:
            raise ConfigError(f"count={self.count} is out of range: 1 to {_MAX_COUNT} instances a launch.")
        for name in ("types", "subnets"):
            if isinstance(getattr(self, name), str):
                raise ConfigError(f"{name}='{getattr(self, name)}' is one text; a tuple of texts is needed.")
        if not self.types:
            raise ConfigError("No instance type is named. Pass --type, for example c5.xlarge.")
        if self.slots != "auto" and not (self.slots.isdigit() and 0 < int(self.slots) <= _MAX_SLOTS):
            raise ConfigError(f"slots='{self.slots}' is neither 'auto' nor a number from 1 to {_MAX_SLOTS}.")
        for name in ("idle_timeout", "max_lifetime", "lease_time", "stale_timeout", "boot_timeout", "deadman_interval"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"{name} must be more than 0 s, and have an end.")
        if self.idle_timeout > self.max_lifetime:
            raise ConfigError("idle_timeout is longer than max_lifetime; an instance would never be idle for so long.")
        if self.max_price and not self.spot:
            raise ConfigError("max_price is a bound on spot prices; pass --spot with it.")
        if self.max_price and not re.fullmatch(r"\d+(\.\d+)?", self.max_price):
            raise ConfigError(f"max_price='{self.max_price}' is no amount of dollars an hour. Write it like 0.12.")
