"""Which image instances boot from."""

from __future__ import annotations

from dataclasses import dataclass

from wren_worker.errors import FleetError
from wren_worker.protocol.ports import Machines
from wren_worker.version import VERSION

__all__ = ["STOCK", "Image", "Stock", "choose_image"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stock:
    """A distribution's own image that has a Python minor. ``owner`` is the publisher's account id."""

    system: str
    owner: str
    name_pattern: str


#: Source: Debian "Cloud/AmazonEC2Image" and Canonical "Find Ubuntu images on AWS", read 2026-11. Who owns an image
#: is part of the question: anybody may publish one under any name.
_DEBIAN, _CANONICAL = "136693071363", "099720109477"
STOCK = {
    "3.11": Stock(system="Debian 12", owner=_DEBIAN, name_pattern="debian-12-amd64-*"),
    "3.12": Stock(
        system="Ubuntu 24.04",
        owner=_CANONICAL,
        name_pattern="ubuntu/images/hvm-ssd-gp3/ubuntu-noble-24.04-amd64-server-*",
    ),
    "3.13": Stock(system="Debian 13", owner=_DEBIAN, name_pattern="debian-13-amd64-*"),
    "3.14": Stock(
        system="Ubuntu 26.04",
        owner=_CANONICAL,
        name_pattern="ubuntu/images/hvm-ssd-gp3/ubuntu-resolute-26.04-amd64-server-*",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image to boot from. ``stock``: it has nothing of ours. ``wheel``: the version of our wheel on it, or "".

    Images hold dependencies; the launcher's own wheel comes at boot, so that both sides are equal. Only an image that
    has the very version needs nothing.
    """

    image_id: str
    what: str
    stock: bool = False
    wheel: str = ""

    @property
    def complete(self) -> bool:
        """Return whether an instance of it needs nothing from the launcher."""
        return self.wheel == VERSION


def choose_image(machines: Machines, python: str, *, wanted: str = "auto") -> Image:
    """Return the image for a Python minor: the one that is named, the newest of your own, else a stock one.

    Raises:
        FleetError: There is none; says what to do.
    """
    if wanted != "auto":
        named = machines.named_image(wanted)
        if named is None:
            raise FleetError(
                f"There is no image {wanted} in this region that this account may use. `wren-standalone image ls` "
                "lists yours; --image auto chooses.",
                started=(),
                retryable=False,
            )
        return Image(image_id=wanted, what=f"{wanted}, as named", wheel=named.wheel)
    own = machines.find_image(python)
    if own is not None:
        return Image(image_id=own.image_id, what=f"{own.image_id}, your own for Python {python}", wheel=own.wheel)
    stock = STOCK.get(python)
    found = machines.find_stock_image(stock.owner, stock.name_pattern) if stock else None
    if stock is None or found is None:
        sought = f"{stock.system} is not offered in this region" if stock else "no stock image is known for it"
        raise FleetError(
            f"There is no image for Python {python}: none of yours is tagged wren:python={python}, and {sought}. "
            f"Bake one with `wren-standalone image build`, name one with --image, or use another Python.",
            started=(),
            retryable=False,
        )
    return Image(image_id=found, what=f"{found}, {stock.system} as it comes, for Python {python}", stock=True)
