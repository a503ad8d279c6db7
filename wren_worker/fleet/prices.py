"""What instances cost: list prices of common types, today's spot prices, and the bound of a launch.

Source: AWS's on-demand price list for Linux in us-east-1, collected 2026-11; other regions differ, mostly upwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wren_worker.fleet.spec import Launch, family_traits
from wren_worker.protocol.ports import TypeInfo

__all__ = ["Price", "ceiling", "price_per_hour", "price_table"]

_LARGE = {
    "c5": 0.085, "c5a": 0.077, "c6a": 0.0765, "c6i": 0.085, "c7a": 0.10264, "c7i": 0.08925,
    "m5": 0.096, "m5a": 0.086, "m6a": 0.0864, "m6i": 0.096, "m7i": 0.1008,
    "r5": 0.126, "r6a": 0.1134, "r6i": 0.126,
}  # fmt: skip
_SIZES = {
    "large": 1, "xlarge": 2, "2xlarge": 4, "4xlarge": 8, "8xlarge": 16, "9xlarge": 18, "12xlarge": 24, "16xlarge": 32,
    "18xlarge": 36, "24xlarge": 48,
}  # fmt: skip


def price_per_hour(instance_type: str) -> float | None:
    """Return dollars an hour on demand in us-east-1, None for a type that is not in the table."""
    family, _, size = instance_type.partition(".")
    if family in _LARGE and size in _SIZES:
        return round(_LARGE[family] * _SIZES[size], 4)
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """One type's prices in dollars an hour; None is not known. ``spot`` is today's, lowest and highest of all zones."""

    instance_type: str
    n_vcpus: int | None = None
    memory_gib: float | None = None
    on_demand: float | None = None
    spot: tuple[float, float] | None = None
    note: str = ""

    def hourly(self, *, spot: bool) -> float | None:
        """Return the most that an hour costs: nobody pays more for spot than for on demand."""
        if spot and self.spot is not None:
            return self.spot[1]
        return self.on_demand


def price_table(
    types: Sequence[str], known: Sequence[TypeInfo], spot: Mapping[str, tuple[float, float]]
) -> list[Price]:
    """Return a row per type."""
    infos = {info.name: info for info in known}
    rows = []
    for name in types:
        info = infos.get(name)
        amd = "a" in family_traits(name) or (info is not None and info.manufacturer == "AMD")
        rows.append(
            Price(
                instance_type=name,
                n_vcpus=info.n_vcpus if info else None,
                memory_gib=round(info.memory_bytes / 2**30, 1) if info and info.memory_bytes else None,
                on_demand=price_per_hour(name),
                spot=spot.get(name),
                note="AMD: MKL is slower here" if amd else "",
            )
        )
    return rows


def ceiling(spec: Launch, prices: Sequence[Price], *, count: int) -> str:
    """Return the bound of what so many instances of a launch can cost, as a sentence; says so when it is not known."""
    what = f"{count} × {' or '.join(spec.types)}{', spot' if spec.spot else ''}"
    hours = spec.max_lifetime / 3600
    hourly = [price.hourly(spot=spec.spot) for price in prices]
    known = [price for price in hourly if price is not None]
    life = f"{hours:.3g} h" if hours >= 1 else f"{hours * 60:.3g} min"
    if not known or len(known) < len(spec.types):
        return f"{what}: not in the price table; they live {life} at most"
    most = count * max(known)
    where = "today's spot price" if spec.spot and all(p.spot for p in prices) else "on demand in us-east-1"
    return f"{what}: at most ${most:.2f} an hour ({where}) and ${most * hours:.2f} over the {life} that they may live"
