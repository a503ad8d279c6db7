"""On-demand list prices of common types, for the table that a launch prints.

Source: AWS's on-demand price list for Linux in us-east-1, collected 2026-11; other regions differ, mostly upwards.
"""

from __future__ import annotations

__all__ = ["price_per_hour"]

_LARGE = {
    "c5": 0.085, "c5a": 0.077, "c6a": 0.0765, "c6i": 0.085, "c7a": 0.10264, "c7i": 0.08925,
    "m5": 0.096, "m5a": 0.086, "m6a": 0.0864, "m6i": 0.096, "m7i": 0.1008,
    "r5": 0.126, "r6a": 0.1134, "r6i": 0.126,
}  # fmt: skip
_SIZES = {"large": 1, "xlarge": 2, "2xlarge": 4, "4xlarge": 8, "8xlarge": 16, "12xlarge": 24, "16xlarge": 32}


def price_per_hour(instance_type: str) -> float | None:
    """Return dollars an hour on demand in us-east-1, None for a type that is not in the table."""
    family, _, size = instance_type.partition(".")
    if family in _LARGE and size in _SIZES:
        return round(_LARGE[family] * _SIZES[size], 4)
    return None
