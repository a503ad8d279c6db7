"""Retries as a user meets them: the client away, the filter of their own class, the story of each call."""

from __future__ import annotations

import json
import time

from world import World

import wren_worker as wren

JOB = """
    import json, time
    import wren_worker as wren

    class Busy(Exception):
        pass

    def f(x, mark={mark!r}):
        with open(f"{{mark}}-{{x}}", "a+") as file:
            file.write("x")
            file.flush()
            n = file.tell()
        if x == 3 and n < 3:
            raise Busy(f"try {{n}}")
        if x == 4:
            raise KeyError("never")
        return x

    ex = wren.executor(backend="sqs")
    futures = ex.map(f, range(6), chunksize=6, retries=wren.Retry(4, on=Busy, delay=1.0))
    print(json.dumps(futures[0].job_id), flush=True)
    ex.close()
"""


def test_retries_go_on_while_the_client_is_away_and_tell_their_story(world: World):
    world.launch(1)
    job_id = json.loads(json.dumps(world.run(JOB.format(mark=str(world.folder / "tries")))))
    before = time.time()
    futures = wren.attach(job_id)
    done, not_done = wren.wait(futures, timeout=60)
    assert not not_done
    assert [f.result() for f in futures if f.call_index != 4] == [0, 1, 2, 3, 5]
    story = futures[3].attempts
    assert [(one.attempt, one.end) for one in story] == [
        (1, "Busy('try 1')"),
        (2, "Busy('try 2')"),
        (3, "success"),
    ]
    assert {one.instance_id for one in story} == {futures[3].run_status["instance_id"]}
    assert all(abs(one.start_timestamp - before) < 120 and one.run_time < 30 for one in story)
    assert [one.end for one in futures[4].attempts] == ["KeyError('never')"]
    assert len(done) == 6
