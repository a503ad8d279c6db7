"""What a selftest found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from wren_worker.chaos.violations import Violation

__all__ = ["Report"]


@dataclass(slots=True, kw_only=True)
class Report:
    """One run. ``lost``, ``hung``, ``duplicated`` and ``wrong`` count calls; the others say what they count.

    Lost: no outcome is stored. Hung: one is stored, and the client that waits for it did not get it in time.
    Duplicated: two are stored. Wrong: it is none that its function can have, or two readers got different ones.
    """

    seed: int
    seconds: float
    n_jobs: int = 0
    n_calls: int = 0
    n_instances: int = 0
    n_requests: int = 0
    injected: Mapping[str, int] = field(default_factory=dict)
    lost: int = 0
    hung: int = 0
    duplicated: int = 0
    wrong: int = 0
    orphan_processes: int = 0
    orphan_instances: int = 0
    violations: list[Violation] = field(default_factory=list)

    @property
    def n_injected(self) -> int:
        """Return how many faults were injected."""
        return sum(self.injected.values())

    @property
    def holds(self) -> bool:
        """Return whether nothing was found wrong."""
        counts = (self.lost, self.hung, self.duplicated, self.wrong, self.orphan_processes, self.orphan_instances)
        return not any(counts) and not self.violations

    def as_json(self) -> dict[str, object]:
        """Return it as plain data."""
        names = [name for name in self.__slots__ if name != "violations"]
        return {
            **{name: getattr(self, name) for name in names},
            "injected": dict(self.injected),
            "n_injected": self.n_injected,
            "violations": [str(violation) for violation in self.violations],
            "holds": self.holds,
        }
