"""What a launch asks for, checked before anything is asked of AWS."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from wren_worker.errors import ConfigError

__all__ = ["Launch", "family_traits"]

#: EC2 asks to break up larger requests. Source: RunInstances, read 2026-11.
_MAX_COUNT = 500
#: A process each; no instance type has more vCPUs to run them on.
_MAX_SLOTS = 1024
_DEFAULT_TYPES = ("c5.xlarge",)
_TIMES = ("idle_timeout", "max_lifetime", "lease_time", "stale_timeout", "boot_timeout", "deadman_interval")
#: Before the end of its life an instance takes no new work: 15 minutes, or a quarter of its life if that is less.
_DRAIN_TIME = 900.0


def family_traits(instance_type: str) -> str:
    """Return the letters behind the generation: "a" among them is AMD, "g" is Graviton (c6a.large, c7gn.large)."""
    match = re.match(r"[a-z]+\d+([a-z]*)", instance_type)
    return match[1] if match else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """A launch, as in ``wren-standalone launch``, or what an executor may start by itself. Times in seconds.

    Args:
        type: An instance type or several; EC2 takes what it has, in any zone.
        types: The same as a tuple; how it is kept.
        count: How many to start. An executor starts what its calls deserve instead.
        max_count: How many an executor has alive at most; default ``count``.
        spot: Whether to take spot instances, which cost less and may be taken away.
        idle_timeout: They end themselves after so long without work,
        max_lifetime: and after so long whatever they do.
        max_price: Dollars an hour for spot, "" for AWS's own bound.
        slots: "auto" (one per core) or a number of calls at a time.
        image: An AMI id, or "auto": the newest of your own for the Python minor, else a stock image that has it.
        subnets: Where; default the default VPC.
        security_groups: Default the fleet's own, which lets nothing in.
    """

    type: str | Sequence[str] = ()
    types: tuple[str, ...] = ()
    count: int | None = None
    max_count: int | None = None
    spot: bool = False
    idle_timeout: float = 300.0
    max_lifetime: float = 28800.0
    max_price: str = ""
    slots: str | int = "auto"
    image: str = "auto"
    lease_time: float = 90.0
    stale_timeout: float = 300.0
    boot_timeout: float = 900.0
    deadman_interval: float = 30.0
    subnets: tuple[str, ...] = ()
    security_groups: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self._settle_types()
        self._settle_counts()
        object.__setattr__(self, "slots", str(self.slots))
        object.__setattr__(self, "max_price", str(self.max_price))
        for name in ("subnets", "security_groups"):
            object.__setattr__(self, name, _texts(name, getattr(self, name)))
        if self.slots != "auto" and not (str(self.slots).isdigit() and 0 < int(self.slots) <= _MAX_SLOTS):
            raise ConfigError(f"slots='{self.slots}' is neither 'auto' nor a number from 1 to {_MAX_SLOTS}.")
        for name in _TIMES:
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"{name} must be more than 0 s, and have an end.")
        if self.idle_timeout > self.max_lifetime:
            raise ConfigError("idle_timeout is longer than max_lifetime; an instance would never be idle for so long.")
        if self.max_price and not self.spot:
            raise ConfigError("max_price is a bound on spot prices; pass --spot with it.")
        if self.max_price and not re.fullmatch(r"\d+(\.\d+)?", self.max_price):
            raise ConfigError(f"max_price='{self.max_price}' is no amount of dollars an hour. Write it like 0.12.")

    def _settle_types(self) -> None:
        if isinstance(self.types, str):
            raise ConfigError(f"types='{self.types}' is one text; a tuple of texts is needed. type= takes one, too.")
        named = tuple(dict.fromkeys((self.type,) if isinstance(self.type, str) else self.type))
        known = tuple(dict.fromkeys(self.types))
        if named and known and named != known:
            raise ConfigError(f"type={named} and types={known} say different things; give one of them.")
        chosen = named or known or _DEFAULT_TYPES
        for one in chosen:
            if not isinstance(one, str) or not re.fullmatch(r"[a-z0-9-]+\.[a-z0-9-]+", one):
                raise ConfigError(f"'{one}' is no instance type. One looks like c5.xlarge.")
        object.__setattr__(self, "types", chosen)
        object.__setattr__(self, "type", chosen)

    def _settle_counts(self) -> None:
        for name in ("count", "max_count"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
                raise ConfigError(f"{name}={value} is out of range: a whole number from 1 to {_MAX_COUNT}.")
            if value is not None and not 1 <= value <= _MAX_COUNT:
                raise ConfigError(f"{name}={value} is out of range: 1 to {_MAX_COUNT} instances a launch.")
        count, most = self.count, self.max_count
        if count is not None and most is not None and count > most:
            raise ConfigError(f"count={count} is more than max_count={most}.")
        object.__setattr__(self, "count", count or most or 1)
        object.__setattr__(self, "max_count", most or count or 1)

    @property
    def n_wanted(self) -> int:
        """Return how many to start."""
        return self.count or 1

    @property
    def n_most(self) -> int:
        """Return how many may live at once."""
        return self.max_count or 1

    @property
    def longest_call_time(self) -> float:
        """Return how long a call may take that an instance starts just before it stops taking work."""
        return self.max_lifetime - min(_DRAIN_TIME, self.max_lifetime / 4)


def _texts(name: str, value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        raise ConfigError(f"{name}='{value}' is one text; a tuple of texts is needed.")
    if not isinstance(value, Sequence) or not all(isinstance(one, str) and one for one in value):
        raise ConfigError(f"{name}={value!r} is no list of names.")
    return tuple(value)
