"""How many instances calls deserve, how often they are tried for, and when that ends."""

from __future__ import annotations

import itertools

import pytest

from wren_worker.errors import FleetError
from wren_worker.fleet.elastic import ElasticFleet, instances_wanted
from wren_worker.fleet.reap import Action, Sight
from wren_worker.fleet.spec import Launch
from wren_worker.protocol.ports import InstanceInfo, LaunchReport
from wren_worker.testing import FakeClock


@pytest.mark.parametrize(
    ("n_pending", "slots", "n_most", "rate", "wanted"),
    [
        (0, 2, 16, None, 0),
        (1, 2, 16, None, 1),
        (5, 2, 16, None, 3),
        (10_000, 2, 16, None, 16),
        (10_000, 2, 16, 100.0, 2),  # two minutes of work for one instance
        (10, 2, 16, 100.0, 1),
        (10_000, 2, 16, 0.01, 16),
        (6, 2, 16, 0.001, 3),  # never more than there are calls for
        (3, 0, 16, None, 3),
    ],
)
def test_what_calls_deserve(n_pending, slots, n_most, rate, wanted):
    assert instances_wanted(n_pending_calls=n_pending, slots=slots, n_most=n_most, call_rate=rate) == wanted


class World:
    """EC2 with as many instances as are asked for, and a client beside it."""

    def __init__(self, *, max_count=4, slots=1, drains=False):
        self.clock = FakeClock()
        self.infos: dict[str, InstanceInfo] = {}
        self.launches: list[tuple[float, int]] = []
        self.told: list[str] = []
        self.refusal: FleetError | None = None
        self.listed = True
        self.looks: list[float] = []
        self.overdue: list[Sight] = []
        self.capacity = 1000
        self.tagged: dict[str, dict[str, str]] = {}
        self.fleet = ElasticFleet(
            self,
            Launch(type="c5.large", max_count=max_count),
            fleet="unit",
            python="3.11",
            launch=self.launch,
            slots=lambda: slots,
            clock=self.clock,
            tell=self.told.append,
            reap=self.reap,
            drain_at_close=drains,
        )

    def launch(self, count):
        self.launches.append((self.clock.monotonic(), count))
        if self.refusal is not None:
            raise self.refusal
        count = min(count, self.capacity)
        ids = tuple(f"i-{len(self.infos) + number}" for number in range(count))
        for one in ids:
            self.add(one)
        return LaunchReport(instance_ids=ids)

    def reap(self):
        self.looks.append(self.clock.monotonic())
        return self.overdue

    def add(self, instance_id, *, state="running", python="3.11", **tags):
        self.infos[instance_id] = InstanceInfo(
            instance_id=instance_id,
            instance_type="c5.large",
            state=state,
            launch_timestamp=0.0,
            tags={"wren:python": python, **tags},
        )

    def end(self, *instance_ids):
        for one in instance_ids or list(self.infos):
            self.add(one, state="terminated")

    def instances(self, fleet, *, alive_only=True):
        return list(self.infos.values()) if self.listed else []

    def set_tags(self, instance_ids, tags):
        for one in instance_ids:
            self.tagged[one] = dict(tags)

    def run(self, duration_time, *, n_pending=100, n_finished=0):
        """Ask as the client's thread does, for so long."""
        end = self.clock.monotonic() + duration_time
        while self.clock.monotonic() < end:
            pause = self.fleet.ensure(n_pending_calls=n_pending, n_finished_calls=n_finished)
            assert pause > 0
            self.clock.sleep(pause)

    @property
    def n_launched(self):
        return [count for _, count in self.launches]


def test_nothing_is_started_for_nothing():
    world = World()
    world.run(30, n_pending=0)
    assert world.launches == []


def test_one_launch_for_all_and_never_more_than_the_bound():
    world = World(max_count=4)
    world.run(60)
    assert world.n_launched == [4]


def test_what_others_started_counts():
    world = World(max_count=4)
    world.add("i-theirs")
    world.add("i-other", python="3.12")
    world.add("i-leaving", **{"wren:drain": "1"})
    world.run(20)
    assert world.n_launched == [3]


def test_an_instance_that_ec2_does_not_list_yet_is_not_started_twice():
    world = World(max_count=2)
    world.listed = False
    world.run(30)
    assert world.n_launched == [2]


def test_what_is_lost_is_started_again_within_the_rate():
    world = World(max_count=2)
    world.run(3)
    world.end()
    world.run(8)
    assert world.n_launched == [2, 2]
    assert world.launches[1][0] - world.launches[0][0] >= 10
    assert "again: none lives" in world.told[-1]


def test_three_launches_without_one_finished_call_are_the_last():
    world = World(max_count=1)

    def lose_all():
        for _ in range(100):
            world.run(5)
            world.end()

    with pytest.raises(FleetError, match="3 launches brought not one finished call") as caught:
        lose_all()
    assert world.n_launched == [1, 1, 1]
    assert len(caught.value.started) == 3
    assert "attach" in str(caught.value)
    gaps = [later[0] - earlier[0] for earlier, later in itertools.pairwise(world.launches)]
    assert gaps[1] > gaps[0] >= 10


def test_a_finished_call_makes_launches_worth_their_money_again():
    world = World(max_count=1)
    for n_finished in range(6):
        world.run(20, n_finished=n_finished)
        world.end()
    assert len(world.launches) == 6


def test_growing_is_not_failing():
    world = World(max_count=100)
    for n_pending in range(1, 8):
        world.run(100, n_pending=n_pending)
    assert world.n_launched == [1] * 7


def test_while_something_lives_its_calls_are_left_pending():
    world = World(max_count=2)
    world.add("i-theirs")
    for _ in range(20):
        world.run(20)
        world.end(*[one for one in world.infos if one != "i-theirs"])
    assert len(world.launches) == 3
    assert "no more instances are started" in world.told[-1]
    assert "1 live" in world.told[-1]


def test_no_capacity_is_asked_for_again_and_again_more_and_more_seldom():
    world = World()
    world.refusal = FleetError("no capacity", retryable=True)
    world.run(2000)
    times = [when for when, _ in world.launches]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert gaps[0] >= 10
    assert gaps[-1] >= 300
    assert len(times) < 15
    world.refusal = None
    world.run(400)
    assert len(world.infos) == 4


def test_what_will_never_work_is_told_at_once():
    world = World()
    world.refusal = FleetError("no launch template. Run: wren-standalone setup", retryable=False, code="X")
    with pytest.raises(FleetError, match="wren-standalone setup") as caught:
        world.run(1)
    assert caught.value.code == "X"
    assert len(world.launches) == 1


def test_a_part_is_topped_up():
    world = World(max_count=4)
    world.capacity = 1
    world.run(200)
    assert world.n_launched == [4, 3, 2, 1]


def test_short_calls_do_not_start_what_would_come_too_late():
    world = World(max_count=10)
    world.add("i-theirs")
    world.fleet._pace.next_time = world.clock.monotonic() + 30  # something was launched lately
    n_finished = 0
    for _ in range(6):
        world.run(5, n_pending=5000, n_finished=n_finished)
        n_finished += 1000  # 200 a second: the rest takes half a minute
    assert world.launches == []


def test_what_was_learnt_of_short_calls_does_not_hold_long_ones_back():
    world = World(max_count=4)
    world.add("i-theirs")
    world.fleet._call_rate = 1000.0
    world.run(60, n_pending=100, n_finished=10)
    assert sum(world.n_launched) == 3


def test_leaving_drains_only_what_was_started_and_still_lives():
    world = World(max_count=3, drains=True)
    world.add("i-theirs")
    world.run(5)
    world.end("i-1")
    world.fleet.close()
    assert set(world.tagged) == {"i-2"}
    assert "wren:drain" in world.tagged["i-2"]
    world.end()
    world.run(60)
    assert len(world.launches) == 1  # it starts nothing any more


def test_leaving_leaves_them_alone_unless_asked():
    world = World(max_count=3)
    world.run(5)
    world.fleet.close()
    assert world.tagged == {}


def test_one_that_hangs_does_not_count_as_alive_for_ever():
    world = World(max_count=1)
    world.add("i-hangs")
    world.overdue = [Sight(instance_id="i-hangs", reason="no sign of life", action=Action.END)]
    world.run(1000)
    assert len(world.looks) == 3
    assert "overdue: i-hangs, no sign of life: ended" in world.told
