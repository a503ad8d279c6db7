"""put: stored once by content, renewed in time, and a Ref that is small and pickles."""

from __future__ import annotations

import copy
import pickle
import sys
import threading
import types

import pytest
from client_world import World

import wren_worker as wren
from wren_worker.client.executor import Executor
from wren_worker.client.inline import Inline
from wren_worker.client.refs import Putter
from wren_worker.clock import SystemClock
from wren_worker.errors import RefUnavailable, SerializationError, StoreError
from wren_worker.protocol import oob
from wren_worker.protocol.modules import LocalModules
from wren_worker.protocol.refs import Ref, ref_key
from wren_worker.protocol.serialize import dump_call, dump_function
from wren_worker.testing import FakeClock, MemoryStore


class Store(MemoryStore):
    """Remembers what was written."""

    def __init__(self, **options) -> None:
        super().__init__(**options)
        self.writes: list[tuple[str, str]] = []

    def put(self, key, data):
        self.writes.append(("put", key))
        super().put(key, data)

    def put_once(self, key, data):
        self.writes.append(("put_once", key))
        return super().put_once(key, data)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store(clock) -> Store:
    return Store(clock=clock)


def putter(store, clock) -> Putter:
    return Putter(store, bucket="b", modules=LocalModules(), clock=clock)


def loaded(store: MemoryStore, ref: Ref) -> object:
    sections = oob.take_apart(store.get(ref_key(ref.sha256)) or b"")
    return pickle.loads(sections[0], buffers=sections[1:])


def test_an_object_is_stored_under_its_content(store, clock):
    value = {"a": [1, 2], "b": b"x" * 300_000}
    ref = putter(store, clock).put(value)
    assert store.writes == [("put_once", ref_key(ref.sha256))]
    assert loaded(store, ref) == value
    assert ref.n_bytes == len(store.get(ref_key(ref.sha256)))


def test_equal_content_is_stored_once_by_whomever(store, clock):
    mine, other = putter(store, clock), putter(store, clock)
    first = mine.put([1, b"x" * 100_000])
    assert mine.put([1, b"x" * 100_000]) == first
    assert other.put([1, b"x" * 100_000]) == first
    assert len(store.writes) == 1
    assert mine.put([2]) != first
    assert len(store.writes) == 2


def test_puts_of_equal_content_at_the_same_time_do_no_harm(store, clock):
    refs, barrier = [], threading.Barrier(6)

    def put():
        one = putter(store, clock)
        barrier.wait()
        refs.append(one.put(b"x" * 500_000))

    threads = [threading.Thread(target=put) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(set(refs)) == 1
    assert len(refs) == 6
    assert loaded(store, refs[0]) == b"x" * 500_000


def test_what_could_expire_before_its_calls_run_is_stored_anew(store, clock):
    mine = putter(store, clock)
    ref = mine.put(b"x")
    clock.advance(3600)
    mine.put(b"x")
    assert len(store.writes) == 1
    clock.advance(86400)
    assert mine.put(b"x") == ref
    assert store.writes[1:] == [("put", ref_key(ref.sha256))]
    [info] = store.list(ref_key(ref.sha256))
    assert info.modified_timestamp == clock.timestamp()


def test_an_object_that_is_not_what_belongs_there_is_replaced(store, clock):
    ref = putter(store, clock).put(b"good")
    store.put(ref_key(ref.sha256), b"bad")
    assert putter(store, clock).put(b"good") == ref
    assert loaded(store, ref) == b"good"


def test_a_put_that_fails_is_tried_again_by_the_next(store, clock, monkeypatch):
    mine = putter(store, clock)

    def refuse(key, data):
        raise StoreError("denied", denied=True)

    monkeypatch.setattr(store, "put_once", refuse)
    with pytest.raises(StoreError, match="denied"):
        mine.put(b"x")
    monkeypatch.undo()
    assert loaded(store, mine.put(b"x")) == b"x"


def test_a_ref_is_small_and_goes_to_another_process_as_it_is(store, clock):
    ref = putter(store, clock).put(b"x" * 1_000_000)
    assert len(pickle.dumps(ref)) < 300
    assert pickle.loads(pickle.dumps(ref)) == ref
    assert copy.deepcopy(ref) == ref
    assert isinstance(ref, wren.Ref)
    assert "bytes of 1000" in repr(ref)


def test_calls_with_a_ref_need_no_other_pickler(store, clock):
    ref = putter(store, clock).put(b"x")
    args, _ = pickle.loads(dump_call(({"deep": [ref]},), {"k": ref}))
    assert args == ({"deep": [ref]},)
    function = pickle.loads(dump_function(lambda: ref).data)
    assert function() == ref


def test_the_local_modules_of_an_object_travel_with_what_uses_it(store, clock, tmp_path, monkeypatch):
    (tmp_path / "shapes_of_put.py").write_text("class Square:\n    side = 3\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import shapes_of_put

    modules = LocalModules()
    try:
        mine = Putter(store, bucket="b", modules=modules, clock=clock)
        ref = mine.put([shapes_of_put.Square(), b"x" * 200_000, *range(100_000)])
        assert ref.modules == ("shapes_of_put",)
        assert modules.mentioned(dump_call((ref,), {})) == {"shapes_of_put"}
        assert modules.mentioned(dump_function(lambda: ref).data) >= {"shapes_of_put"}
    finally:
        del sys.modules["shapes_of_put"]


def test_what_cannot_be_pickled_is_named_and_nothing_is_stored():
    world = World()
    with pytest.raises(SerializationError, match="generator"):
        world.executor().put(x for x in range(3))
    assert not [key for key in world.store.objects if key.startswith("refs/")]
    world.close()


def test_an_executor_puts_into_its_fleets_bucket():
    world = World()
    ref = world.executor().put([1, 2, 3])
    assert ref_key(ref.sha256) in world.store.objects
    assert ref.bucket == world.transport().names.bucket
    world.close()


# --- inline -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def inline() -> Executor:
    return Executor(Inline(SystemClock()))


def test_inline_a_ref_arrives_as_the_object_wherever_it_stands(inline):
    value = [1, 2, 3]
    ref = inline.put(value)
    assert inline.call_async(lambda x: x is value, ref).result() is True
    assert inline.call_async(lambda x: x["a"][0][1] is value, {"a": [(0, ref)]}).result() is True
    assert inline.submit(lambda *, k: k is value, k=ref).result() is True

    def closure(x, default=ref):
        return sum(ref) + sum(default) + x

    assert [future.result() for future in inline.map(closure, [0, 1])] == [12, 13]


def test_inline_what_has_no_ref_in_it_is_not_copied(inline):
    inline.put([1])
    seen = []
    mine = [5]
    inline.call_async(seen.append, mine)
    inline.map(seen.append, [mine])
    assert [one is mine for one in seen] == [True, True]


def test_inline_a_ref_of_elsewhere_is_a_typed_failure(inline):
    inline.put([1])
    foreign = Ref(sha256="0" * 64, n_bytes=1, bucket="b")
    with pytest.raises(RefUnavailable, match="not put by this executor"):
        inline.call_async(len, foreign).result()


def test_inline_says_what_a_fleet_would_say(inline):
    with pytest.raises(SerializationError):
        inline.put(types.SimpleNamespace(lock=threading.Lock()))
