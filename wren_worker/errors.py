"""The whole error tree. Imports nothing of ours.

Every message says what happened, the likely cause and the next step; data stands in attributes.
All classes pickle: state travels as ``(message, attributes)``.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Any

__all__ = [
    "AttemptsExhausted",
    "CallCancelled",
    "CallError",
    "CallTimeout",
    "ChunkLost",
    "ConfigError",
    "FleetError",
    "JobIncomplete",
    "OutOfMemory",
    "QueueError",
    "RefUnavailable",
    "RemoteTraceback",
    "ResultNotSerializable",
    "ResultTampered",
    "RuntimeMismatch",
    "SerializationError",
    "SlotCrashed",
    "StoreError",
    "WireError",
    "WrenError",
]


class WrenError(Exception):
    """Base of everything this package raises on purpose.

    Args:
        message: What happened, why, what to do.
        **data: Facts a caller can act on; they become attributes.
    """

    def __init__(self, message: str = "", **data: Any) -> None:
        super().__init__(message)
        self.message = message
        self.__dict__.update(data)

    def __reduce__(self) -> tuple[Callable[..., WrenError], tuple[type[WrenError], dict[str, Any]]]:
        return _rebuild, (type(self), dict(self.__dict__))

    def __str__(self) -> str:
        return self.message


def _rebuild(kind: type[WrenError], data: dict[str, Any]) -> WrenError:
    data = dict(data)
    return kind(data.pop("message", ""), **data)


class ConfigError(WrenError):
    """A setting is unknown, malformed or contradicts another."""


class SerializationError(WrenError):
    """A function or an argument cannot be pickled; names the variable or module at fault."""


class RuntimeMismatch(WrenError):
    """Client and instance run another python version, or another wire version."""


class QueueError(WrenError):
    """SQS refused or lost something and retrying did not help."""


class StoreError(WrenError):
    """S3 refused or lost something and retrying did not help."""


class FleetError(WrenError):
    """EC2, IAM or the fleet's resources are not as needed; carries what did start, as ``started``."""


class WireError(WrenError):
    """Bytes from the queue, the bucket or a pipe are not what this version writes."""


class CallError(WrenError):
    """One call has no value of its own: base of the outcomes that are ours, not the user's exception.

    Attributes, where known: ``job_id``, ``call_index``, ``attempts``, ``instance_id``.
    """


class CallTimeout(CallError):
    """The call ran past its timeout; its process group was killed. PyWren: "process ran out of time"."""


class SlotCrashed(CallError):
    """The call took its process down: ``exit_code`` or ``signal_name`` says how."""


class OutOfMemory(CallError):
    """The kernel ended the call for its memory; ``peak_rss_bytes`` says how much it held."""


class CallCancelled(CallError, CancelledError):
    """The call was cancelled before an outcome was recorded."""


class ResultNotSerializable(CallError):
    """The value or exception cannot be pickled or unpickled; ``value_repr`` and ``type_name`` are left."""


class ResultTampered(CallError):
    """The result's authenticity check failed; its bytes were not read further."""


class ChunkLost(CallError):
    """The chunk was sent again and again and never came back."""


class RefUnavailable(CallError):
    """What a ``Ref`` of the call stands for is gone, changed or out of reach; ``sha256`` and ``bucket`` say which."""


class AttemptsExhausted(CallError):
    """The call took its machine down at every delivery; ``deliveries`` says how often."""


class JobIncomplete(CallError):
    """The job's client ended before all its calls were stored; ``n_calls`` says how many are."""


class RemoteTraceback(Exception):
    """The traceback of the instance, shown as the cause of the user's own exception."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'


#: Outcomes of status ``error``: the name on the wire -> the class a reader raises.
CALL_ERRORS: dict[str, type[CallError]] = {
    kind.__name__: kind
    for kind in (
        CallTimeout,
        SlotCrashed,
        OutOfMemory,
        CallCancelled,
        ResultNotSerializable,
        ResultTampered,
        ChunkLost,
        AttemptsExhausted,
        JobIncomplete,
        RefUnavailable,
    )
}
