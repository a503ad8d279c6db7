"""The face: PyWren's verbs on whatever runs the calls."""

from __future__ import annotations

import json
import operator
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, islice
from typing import Any, Literal, TypeVar, cast

from wren_worker.client.cancel import cancel_futures
from wren_worker.client.future import Future
from wren_worker.client.limits import check_limits
from wren_worker.client.retry import Retry, as_retry
from wren_worker.client.spec import Backend, JobSpec
from wren_worker.client.streaming import stream
from wren_worker.clock import parse_time
from wren_worker.errors import ConfigError
from wren_worker.protocol.model import JobManifest, Limits
from wren_worker.protocol.refs import Ref

__all__ = ["Executor"]

T = TypeVar("T")

#: What a job's own facts are called; the user's ``extra_meta`` stands beside them.
_RESERVED_META = frozenset(JobManifest.__dataclass_fields__) | {"callset_id", "call_id", "call_index", "func_name"}


class Executor:
    """Runs a function over many inputs. Safe from any thread; a context manager that closes itself.

    Args:
        backend: What runs the calls: ``Remote`` or ``Inline``.
        job_max_runtime: The default of every ``timeout``, in seconds.
        map_item_limit: How many items one ``map`` takes, 0 for any number.
    """

    def __init__(self, backend: Backend, *, job_max_runtime: float = 3600.0, map_item_limit: int = 0) -> None:
        self._backend = backend
        self._job_max_runtime = job_max_runtime
        self._map_item_limit = map_item_limit
        self._check_timeout(job_max_runtime)
        print(f"wren: {backend.describe}", file=sys.stderr, flush=True)

    def map(  # noqa: PLR0917 - PyWren's signature, positions included
        self,
        func: Callable[[Any], T],
        iterdata: Iterable[Any],
        extra_env: Mapping[str, str] | None = None,
        extra_meta: Mapping[str, object] | None = None,
        invoke_pool_threads: int | None = None,  # noqa: ARG002 - PyWren's
        data_all_as_one: bool = True,  # noqa: ARG002 - PyWren's
        use_cached_runtime: bool = True,  # noqa: ARG002 - PyWren's
        overwrite_invoke_args: None = None,
        exclude_modules: Iterable[str] | None = None,
        *,
        chunksize: int | Literal["auto"] = "auto",
        timeout: float | str | None = None,
        retries: int | Retry = 0,
        name: str | None = None,
    ) -> list[Future[T]]:
        """Run ``func(item)`` for every item; return the futures in order, once all items are pickled.

        Args:
            func: Takes one argument. What it needs of ``__main__`` and of local modules travels with it.
            iterdata: The items; consumed before this returns, while the first are already on their way.
            extra_env: Environment variables around each call.
            extra_meta: Facts of your own about the job, as JSON takes them.
            invoke_pool_threads: PyWren's; a few threads always send, so it changes nothing.
            data_all_as_one: PyWren's; arguments always travel together, so it changes nothing.
            use_cached_runtime: PyWren's; runtimes lie in the image, so it changes nothing.
            overwrite_invoke_args: PyWren's arguments of a Lambda call; there is none, so only None is accepted.
            exclude_modules: Local modules that stay here.
            chunksize: How many calls travel, and are run on one instance, together.
            timeout: Seconds a call may run, or "90s", "5m", "8h"; default ``job_max_runtime``.
            retries: How often a call that raised or timed out is run again; ``Retry`` says for what and how soon.
            name: What to call the job in listings; default the function's name.

        Raises:
            SerializationError: The function or an item cannot be pickled; says which part.
            ValueError: An argument is out of its range; too many items; ``extra_meta`` clashes.
        """
        if overwrite_invoke_args is not None:
            raise ValueError("overwrite_invoke_args changes a Lambda call, and none is made here: leave it out.")
        iterdata, n_expected = self._counted(iterdata)
        spec = self._spec(
            func,
            extra_env=extra_env,
            extra_meta=extra_meta,
            exclude_modules=exclude_modules,
            chunksize=chunksize,
            timeout=timeout,
            retries=retries,
            name=name,
            n_expected=n_expected,
        )
        return cast("list[Future[T]]", self._run(spec, ((item,) for item in iterdata)))

    def starmap(
        self,
        func: Callable[..., T],
        iterable: Iterable[Iterable[Any]],
        *,
        extra_env: Mapping[str, str] | None = None,
        extra_meta: Mapping[str, object] | None = None,
        exclude_modules: Iterable[str] | None = None,
        chunksize: int | Literal["auto"] = "auto",
        timeout: float | str | None = None,
        retries: int | Retry = 0,
        name: str | None = None,
    ) -> list[Future[T]]:
        """Run ``func(*item)`` for every item of tuples; otherwise as ``map``."""
        iterable, n_expected = self._counted(iterable)
        spec = self._spec(
            func,
            extra_env=extra_env,
            extra_meta=extra_meta,
            exclude_modules=exclude_modules,
            chunksize=chunksize,
            timeout=timeout,
            retries=retries,
            name=name,
            n_expected=n_expected,
        )
        return cast("list[Future[T]]", self._run(spec, (tuple(item) for item in iterable)))

    def call_async(
        self,
        func: Callable[[Any], T],
        data: Any,
        extra_env: Mapping[str, str] | None = None,
        extra_meta: Mapping[str, object] | None = None,
        *,
        timeout: float | str | None = None,
        retries: int | Retry = 0,
    ) -> Future[T]:
        """Run ``func(data)`` as a job of one call; otherwise as ``map``."""
        spec = self._spec(
            func, extra_env=extra_env, extra_meta=extra_meta, timeout=timeout, retries=retries, n_expected=1
        )
        return cast("Future[T]", self._run(spec, [(data,)])[0])

    def submit(self, func: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Run ``func(*args, **kwargs)``; submits of one function that follow closely share a job."""
        return cast("Future[T]", self._backend.submit(self._spec(func), args, kwargs))

    def imap(
        self,
        func: Callable[[Any], T],
        iterable: Iterable[Any],
        *,
        window: int = 1000,
        ordered: bool = True,
        extra_env: Mapping[str, str] | None = None,
        exclude_modules: Iterable[str] | None = None,
        chunksize: int | Literal["auto"] = "auto",
        timeout: float | str | None = None,
        retries: int | Retry = 0,
        name: str | None = None,
    ) -> Iterator[T]:
        """Return an iterator of ``func(item)`` over a stream of any length, in bounded memory.

        Items are read as results are taken; a call's failure is raised at its turn, and ends the iterator.

        Args:
            func: Takes one argument.
            iterable: The items; may be endless.
            window: How many calls may be on their way, or done and not taken yet.
            ordered: Whether results come in the order of the items, else as they are done.
            extra_env: As in ``map``; so are the others.
            exclude_modules: As in ``map``.
            chunksize: As in ``map``.
            timeout: As in ``map``.
            retries: As in ``map``.
            name: As in ``map``.

        Raises:
            SerializationError: The function or an item cannot be pickled.
            ValueError: An argument is out of its range.
        """
        if window < 1:
            raise ValueError(f"window={window} is out of range; give 1 or more calls.")
        spec = self._spec(
            func,
            extra_env=extra_env,
            exclude_modules=exclude_modules,
            # more than the window would never be there together
            chunksize=chunksize if chunksize == "auto" else min(chunksize, window),
            timeout=timeout,
            retries=retries,
            name=name,
        )
        return cast("Iterator[T]", stream(self._backend, spec, iterable, window=window, ordered=ordered))

    def put(self, obj: Any) -> Ref:
        """Store an object once, and return what stands for it.

        A ``Ref``, passed anywhere in a call's arguments or used by its function, arrives as the object: fetched once by
        each instance, loaded once by each slot, its arrays mapped from one file and therefore read-only. An object
        whose content was put before, by anybody, is not sent again. It is kept for 15 days.

        Raises:
            SerializationError: It cannot be pickled; says which part.
            StoreError: S3 did not take it.
        """
        return self._backend.put(obj)

    def cancel(self, job_or_futures: str | Future[Any] | Iterable[Future[Any]]) -> int:
        """Cancel a job (by its id), or the calls of futures; return how many calls are cancelled by that.

        Calls that wait never start, those that run are ended within seconds, those that have an outcome keep it. It
        holds for every reader, whether or not an instance lives.

        Raises:
            StoreError: There is no such job, or not all of it could be recorded; to cancel again does no harm.
        """
        if isinstance(job_or_futures, str):
            return self._backend.cancel(job_or_futures)
        return cancel_futures([job_or_futures] if isinstance(job_or_futures, Future) else job_or_futures)

    def unresolved(self) -> list[Future[Any]]:
        """Return the futures of this executor's calls that have no outcome yet."""
        return self._backend.unresolved()

    def close(self) -> None:
        """Wait until everything is sent, then end threads and the reply queue. Jobs go on, and futures stay good."""
        self._backend.close()

    def __enter__(self) -> Executor:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is KeyboardInterrupt:
            self._backend.interrupted()
        self.close()

    def _run(self, spec: JobSpec, calls: Iterable[tuple[object, ...]]) -> list[Future[object]]:
        job = None
        futures: list[Future[object]] = []
        try:
            calls = iter(calls)
            for first in calls:  # an empty input is no job
                job = self._backend.open(spec)
                futures = job.calls(chain([first], calls))
                job.finish()
        except BaseException:
            if job is not None:
                job.abort()
            raise
        return futures

    def _counted(self, items: Iterable[Any]) -> tuple[Iterable[Any], int | None]:
        """Return the items and how many there are, None if that is not known; refuse too many."""
        limit = self._map_item_limit
        n_items: int | None = None
        try:
            n_items = len(items)  # type: ignore[arg-type]  # this is how one asks
        except TypeError:
            if limit:
                items = list(islice(items, limit + 1))
                n_items = len(items)
        if limit and n_items is not None and n_items > limit:
            raise ValueError(
                f"map_item_limit allows {limit} items, and there are more. Raise the limit, or map in parts."
            )
        return items, n_items

    def _check_timeout(self, timeout: float, chunksize: int | None = None) -> None:
        check_limits(timeout=timeout, chunksize=chunksize, longest_call_time=self._backend.longest_call_time)

    def _spec(
        self,
        func: Callable[..., object],
        *,
        extra_env: Mapping[str, str] | None = None,
        extra_meta: Mapping[str, object] | None = None,
        exclude_modules: Iterable[str] | None = None,
        chunksize: int | Literal["auto"] = "auto",
        timeout: float | str | None = None,
        retries: int | Retry = 0,
        name: str | None = None,
        n_expected: int | None = None,
    ) -> JobSpec:
        if not callable(func):
            raise TypeError(f"{func!r} cannot be called: the first argument is the function to run.")
        retry = as_retry(retries)
        size = None if chunksize == "auto" else operator.index(chunksize)
        timeout = self._job_max_runtime if timeout is None else _seconds(timeout)
        self._check_timeout(timeout, size)
        if isinstance(exclude_modules, str):
            exclude_modules = [exclude_modules]
        return JobSpec(
            func=func,
            name=name or str(getattr(func, "__name__", type(func).__name__)),
            limits=Limits(
                timeout=timeout, retries=retry.n, retry_delay=float(retry.delay), retry_max_delay=float(retry.max_delay)
            ),
            retry=retry,
            env=_checked_env(extra_env or {}),
            meta=_checked_meta(extra_meta or {}),
            exclude_modules=tuple(exclude_modules or ()),
            chunksize=size,
            n_expected=n_expected,
        )


def _seconds(timeout: float | str) -> float:
    if not isinstance(timeout, str):
        return float(timeout)
    try:
        return parse_time(timeout)
    except ConfigError as error:
        raise ValueError(f"timeout: {error}") from error


def _checked_env(env: Mapping[str, str]) -> dict[str, str]:
    for name, value in env.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise ValueError(  # noqa: TRY004 - API.md: ValueError
                f"extra_env: {name!r}={value!r} is not text to text; an environment holds only text."
            )
        if not name or "=" in name or "\0" in name + value:
            raise ValueError(f"extra_env: {name!r}={value!r} is nothing that an environment can hold.")
    return dict(env)


def _checked_meta(meta: Mapping[str, object]) -> dict[str, object]:
    clashes = sorted(_RESERVED_META.intersection(meta))
    if clashes:
        raise ValueError(f"extra_meta: '{clashes[0]}' is a fact of the job itself; choose another key.")
    try:
        json.dumps(dict(meta), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"extra_meta cannot be stored as JSON: {error}.") from error
    if not all(isinstance(key, str) for key in meta):
        raise ValueError("extra_meta: keys are text.")
    return dict(meta)
