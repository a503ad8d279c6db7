"""What a call may change around itself, put back before the next: environment, directory, umask, signals, seeds."""

from __future__ import annotations

import contextlib
import functools
import os
import random
import signal
import sys
from collections.abc import Callable

__all__ = ["Surroundings"]


class Surroundings:
    """The state of the process as it was when the child was set up for its job."""

    def __init__(self) -> None:
        #: What ``os.environ`` keeps; comparing it costs a sixtieth of comparing the mapping itself.
        self._variables = getattr(os.environ, "_data", os.environ)
        self._kept_variables = dict(self._variables)
        self._environ = dict(os.environ)
        self._directory = os.getcwd()
        self._umask = os.umask(0o022)
        os.umask(self._umask)
        self._signal_mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        self._entropy = random.SystemRandom()
        self._seeded = False
        self._watch_seeds()

    def _watch_seeds(self) -> None:
        # seeding costs more than the rest of a short call, and only a call that seeds makes it necessary
        for name in ("seed", "setstate"):
            setattr(random, name, self._noting(getattr(random, name)))

    def _noting(self, function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def noted(*args: object, **kwargs: object) -> None:
            self._seeded = True
            function(*args, **kwargs)

        return noted

    def fresh_seeds(self) -> None:
        """Seed the global generators anew: neither a neighbour's seed nor the one a fork inherited is kept."""
        random.seed(self._entropy.getrandbits(64))
        self._seeded = False
        self._seed_numpy()

    def _seed_numpy(self) -> None:
        numpy_random = sys.modules.get("numpy.random")
        if numpy_random is not None:
            numpy_random.seed(self._entropy.getrandbits(32))

    def put_back(self) -> None:
        """Undo what a call changed."""
        if self._variables != self._kept_variables:
            os.environ.clear()
            os.environ.update(self._environ)
        try:
            moved = os.getcwd() != self._directory
        except FileNotFoundError:
            moved = True
        if moved:
            os.makedirs(self._directory, exist_ok=True)
            os.chdir(self._directory)
        os.umask(self._umask)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._signal_mask)
        with contextlib.suppress(Exception):  # a half-imported numpy, a seed function the call replaced
            if self._seeded:
                self.fresh_seeds()
            else:
                self._seed_numpy()  # its generators are too many doors to watch
