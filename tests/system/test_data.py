"""Large data as a user passes it: put, references anywhere, large arguments and results, through everything."""

from __future__ import annotations

import json
import urllib.request

import pytest
from world import World

PUT = """
    import json
    import numpy as np
    import wren_worker as wren

    def scale(item, *, by):
        return float(item["arrays"][0][item["i"]] * by[0])

    with wren.executor(backend={backend}) as ex:
        array = np.arange(4_000_000, dtype=float)
        ref = ex.put(array)
        assert ex.put(np.arange(4_000_000, dtype=float)) == ref
        by = ex.put([10])

        def total(x, ref=ref):
            return float(ref[-1]) + by[0] + x

        found = [ex.submit(scale, {{"arrays": [ref], "i": i}}, by=by) for i in range(8)]
        found += ex.map(total, range(4))
        print(json.dumps(wren.get_all_results(found)))
"""
EXPECTED = [10.0 * i for i in range(8)] + [3_999_999.0 + 10 + i for i in range(4)]


def requests(world: World) -> dict[str, int]:
    with urllib.request.urlopen(world.info.endpoint + "/wren/requests") as answer:
        found: dict[str, int] = json.load(answer)
    return found


def test_what_was_put_is_uploaded_once_and_arrives_everywhere(world: World):
    pytest.importorskip("numpy")
    world.launch(2, slots="2")
    before = requests(world).get("s3.UploadPart", 0)
    assert world.run(PUT.format(backend='"sqs"')) == EXPECTED
    store = world.operator.store
    refs = {info.key: info.n_bytes for info in store.list("refs/")}
    assert sorted(n_bytes > 32_000_000 for n_bytes in refs.values()) == [False, True]
    # 32 MB in parts of 8 MiB, if it went up in parts at all: not twice
    assert requests(world).get("s3.UploadPart", 0) - before <= 4


def test_inline_gives_the_same(world: World):
    pytest.importorskip("numpy")
    assert world.run(PUT.format(backend='"inline"')) == EXPECTED


def test_a_ref_whose_object_was_deleted_says_so(world: World):
    world.launch(1)
    found = world.run(
        """
        import json
        import wren_worker as wren
        from wren_worker.wiring.operator import Operator
        from wren_worker.config import load_settings

        with wren.executor(backend="sqs") as ex:
            ref = ex.put(["it"])
            store = Operator(load_settings(backend="sqs")).store
            store.delete([info.key for info in store.list("refs/")])
            error = ex.submit(len, ref).exception()
            print(json.dumps([type(error).__name__, isinstance(error, wren.CallError), str(error), error.sha256]))
        """
    )
    assert found[:2] == ["RefUnavailable", True]
    assert "does not exist" in found[2]
    assert "put it again" in found[2]
    assert len(found[3]) == 64


def test_a_class_of_a_local_module_that_was_put_is_there(world: World):
    world.launch(1)
    (world.folder / "shapes.py").write_text("class Square:\n    def __init__(self, a): self.a = a\n")
    found = world.run(
        """
        import json
        import wren_worker as wren
        import shapes

        with wren.executor(backend="sqs") as ex:
            ref = ex.put([shapes.Square(3)])
            print(json.dumps(ex.submit(lambda squares: squares[0].a, ref).result()))
        """
    )
    assert found == 3


def test_large_arguments_and_results_go_there_and_back(world: World):
    pytest.importorskip("numpy")
    world.launch(2)
    found = world.run(
        """
        import json
        import numpy as np
        import wren_worker as wren

        def double(array):
            array *= 2          # an argument is the call's own
            return array

        with wren.executor(backend="sqs") as ex:
            sent = [np.full(n, n, dtype=float) for n in (10, 100_000, 1_500_000, 9_000_000)]
            back = wren.get_all_results(ex.map(double, sent))
            same = [bool((a * 2 == b).all()) for a, b in zip(sent, back)]
            print(json.dumps([same, [b.flags.writeable for b in back], [int(a[0]) for a in sent]]))
        """
    )
    assert found == [[True] * 4, [True] * 4, [10, 100_000, 1_500_000, 9_000_000]]
