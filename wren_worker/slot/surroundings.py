"""What a call may change around itself, put back before the next: environment, directory, umask, signals, seeds."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys

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
        self._next_seed = self._entropy.getrandbits(128)

    def fresh_seeds(self) -> None:
        """Seed the global generators anew: neither a neighbour's seed nor the one a fork inherited is kept."""
        # random per child, then counted: the generator mixes neighbouring seeds into unrelated streams
        self._next_seed += 1
        random.seed(self._next_seed)
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
            self.fresh_seeds()
