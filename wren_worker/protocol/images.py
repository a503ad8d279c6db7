"""Machine images as data, and the port that lists, tags and removes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

__all__ = ["ImageInfo", "Images"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageInfo:
    """An image of ours, as EC2 describes it.

    Args:
        image_id: The AMI.
        name: What it is called.
        state: EC2's word: "available", "pending", "failed", …
        python: The Python minor that its calls run.
        version: The version of wren_worker that built it.
        runtime: The digest of its packages.
        created_timestamp: Unix seconds.
        n_bytes: What its snapshots hold; EC2 bills these. An upper bound where ``is_exact`` is false.
        is_exact: Whether EC2 told how much is stored, rather than how much could be.
        snapshot_ids: What is deleted with it.
    """

    image_id: str
    name: str
    state: str
    python: str
    version: str
    runtime: str
    created_timestamp: float
    n_bytes: int
    is_exact: bool
    snapshot_ids: tuple[str, ...]


class Images(Protocol):
    """The account's images in a region that are tagged ``wren:python``; others are not seen and not touched."""

    def images(self) -> list[ImageInfo]:
        """Return them, newest first.

        Raises:
            FleetError: EC2 refused.
        """
        ...

    def set_tags(self, image: ImageInfo, tags: Mapping[str, str]) -> None:
        """Tag an image and its snapshots.

        Raises:
            FleetError: EC2 refused.
        """
        ...

    def remove(self, image: ImageInfo) -> dict[str, str]:
        """Deregister an image and delete its snapshots; return ``{snapshot_id: reason}`` for those that are left.

        Raises:
            FleetError: The image could not be deregistered; nothing was deleted.
        """
        ...
