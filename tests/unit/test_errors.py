"""The error tree: every class pickles with its data, and is what API users catch."""

from __future__ import annotations

import copy
import inspect
import pickle
from concurrent.futures import CancelledError

import pytest

from wren_worker import errors
from wren_worker.errors import CALL_ERRORS, CallError, RemoteTraceback, WrenError

CLASSES = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, WrenError)]


def test_the_tree_is_whole():
    exported = {getattr(errors, name) for name in errors.__all__}
    assert exported == {*CLASSES, RemoteTraceback}


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("kind", CLASSES)
def test_every_class_pickles_with_its_data(kind, protocol):
    error = kind("What happened.", job_id="j", call_index=3, unsent=[1, 2])
    found = pickle.loads(pickle.dumps(error, protocol))
    assert type(found) is kind
    assert vars(found) == vars(error) == {"message": "What happened.", "job_id": "j", "call_index": 3, "unsent": [1, 2]}
    assert str(found) == found.message == "What happened."
    assert found.args == error.args


@pytest.mark.parametrize("kind", CLASSES)
def test_every_class_can_be_made_of_nothing_copied_and_raised(kind):
    assert str(kind()) == ""
    error = copy.copy(kind("m", a=1))
    assert (type(error), error.a) == (kind, 1)
    with pytest.raises(WrenError) as caught:
        raise error
    assert caught.value is error
    assert "m" in repr(error)


@pytest.mark.parametrize("kind", CLASSES)
def test_what_was_added_later_travels_too(kind):
    error = kind("m")
    error.message = "changed"
    error.attempts = 2
    error.add_note("a note")
    found = pickle.loads(pickle.dumps(error))
    assert (str(found), found.attempts, found.__notes__) == ("changed", 2, ["a note"])


@pytest.mark.parametrize("kind", CLASSES)
def test_every_class_says_what_it_means(kind):
    assert kind.__doc__
    assert kind.__doc__ != WrenError.__doc__ or kind is WrenError


def test_the_names_on_the_wire_are_the_classes_names():
    assert all(name == kind.__name__ and issubclass(kind, CallError) for name, kind in CALL_ERRORS.items())
    assert set(CALL_ERRORS.values()) == {kind for kind in CLASSES if issubclass(kind, CallError)} - {CallError}


def test_a_cancelled_call_is_what_futures_raise():
    with pytest.raises(CancelledError):
        raise errors.CallCancelled("cancelled")


def test_a_remote_traceback_pickles_and_shows_its_text():
    found = pickle.loads(pickle.dumps(RemoteTraceback("Traceback: here\n")))
    assert found.text == "Traceback: here\n"
    assert "Traceback: here" in str(found)
