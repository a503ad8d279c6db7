"""The page that a child and the daemon share."""

from __future__ import annotations

import os
import sys
import time

import pytest

from wren_worker.clock import SystemClock
from wren_worker.protocol import page as page_file
from wren_worker.protocol.page import PAGE_BYTES, Page


@pytest.fixture
def descriptor(tmp_path):
    path = tmp_path / "page"
    path.write_bytes(bytes(PAGE_BYTES))
    opened = os.open(path, os.O_RDWR)
    yield opened
    os.close(opened)


@pytest.fixture
def page(descriptor):
    made = Page(descriptor)
    made.clear()
    yield made
    made.close()


def test_nothing_runs_on_a_cleared_page(page):
    assert page.running() is None


def test_the_running_call_and_its_start_are_told(page):
    before = SystemClock().monotonic()
    page.mark(7)
    call_index, start = page.running()
    assert call_index == 7
    assert before <= start <= SystemClock().monotonic()
    page.clear()
    assert page.running() is None


@pytest.mark.parametrize("call_index", [0, 2**32 - 1])
def test_any_call_of_a_job_fits(page, call_index):
    page.mark(call_index)
    assert page.running()[0] == call_index


def test_another_mapping_sees_it(page, descriptor):
    other = Page(descriptor)
    page.mark(3)
    assert other.running() == page.running()
    other.close()


SCRIPT = """
import os, runpy, signal, sys
made = runpy.run_path(sys.argv[1])["Page"](int(sys.argv[2]))
for call_index in range(int(sys.argv[3]), int(sys.argv[4])):
    made.mark(call_index)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def marker(descriptor, processes):
    """Return a starter of a program that marks calls and kills itself; it loads the page by path, as a slot does."""

    def start(first, end):
        command = [sys.executable, "-c", SCRIPT, page_file.__file__, str(descriptor), str(first), str(end)]
        return processes(command, pass_fds=[descriptor])

    return start


def test_what_a_killed_process_marked_stays(page, marker):
    assert marker(42, 43).wait(60) == -9
    call_index, start = page.running()
    assert call_index == 42
    assert 0 <= SystemClock().monotonic() - start < 120


def test_a_reader_never_sees_half_a_number(page, marker):
    child = marker(1, 300_000)
    previous, n_seen, deadline = (0, 0.0), 0, time.monotonic() + 60
    while child.poll() is None:
        assert time.monotonic() < deadline
        for _ in range(1000):
            found = page.running() or previous
            assert found[0] >= previous[0]
            assert found[1] >= previous[1]
            n_seen += found != previous
            previous = found
    assert page.running()[0] == 299_999
    assert n_seen
