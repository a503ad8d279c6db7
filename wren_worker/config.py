"""Settings of the client and of an instance, and the names of a fleet's things in AWS.

Client settings: defaults < config file < ``WREN_*`` environment < arguments. An instance reads the one JSON file
that its user-data wrote. Unknown keys are errors with a suggestion.
"""

from __future__ import annotations

import difflib
import json
import math
import os
import re
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

from wren_worker.errors import ConfigError

__all__ = [
    "InstanceConfig",
    "Names",
    "Settings",
    "config_path",
    "load_instance_config",
    "load_settings",
    "shared_file",
    "this_python",
]

_FLEET_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,22}[a-z0-9])?")


#: User-data has 16 KiB, and this is a part of it.
_MOST_CONFIG_BYTES = 64 * 1024
_LONGEST_TIME = 1e9
_SHAPES = {
    "account": re.compile(r"[0-9]{12}"),
    "region": re.compile(r"[a-z0-9-]{1,32}"),
    "python": re.compile(r"[0-9]\.[0-9]{1,2}"),
    "slots": re.compile(r"auto|[1-9][0-9]{0,3}"),
}


def this_python() -> str:
    """Return this interpreter's minor version, "3.11"."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def shared_file(name: str) -> Path:
    """Return a file or folder that belongs to an instance: "supervisord.conf", "cloud-init/deadman.py", "packer".

    It lies inside the package when that was installed from a wheel, and beside it in a checkout.

    Raises:
        ConfigError: It is in neither place.
    """
    package = Path(__file__).resolve().parent
    for place in (package / "_files" / name, package.parent / name):
        if place.exists():
            return place
    raise ConfigError(f"'{name}' is missing: the package is incomplete. Install it again.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """What a fleet's things are called in AWS.

    Args:
        fleet: 1..24 of a-z, 0-9 and inner hyphens (it becomes part of a bucket name).
        account: The AWS account id.
        region: The AWS region.
    """

    fleet: str
    account: str
    region: str

    def __post_init__(self) -> None:
        if not _FLEET_NAME.fullmatch(self.fleet):
            raise ConfigError(
                f"'{self.fleet}' cannot be a fleet name: it becomes part of a bucket name. "
                "Use 1 to 24 lower-case letters, digits and inner hyphens."
            )

    def task_queue(self, python: str) -> str:
        """Return the task queue's name for a Python minor; it carries the wire major too."""
        return f"wren-{self.fleet}-tasks-v1-py{python.replace('.', '')}"

    def dead_letter_queue(self, python: str) -> str:
        """Return the name of the queue for messages that nobody may answer."""
        return f"{self.task_queue(python)}-dead"

    def reply_queue(self, reply_id: str) -> str:
        """Return the name of one executor's reply queue."""
        return f"wren-{self.fleet}-reply-{reply_id}"

    @property
    def bucket(self) -> str:
        """Return the bucket's name."""
        return f"wren-{self.account}-{self.region}-{self.fleet}"

    @property
    def instance_role(self) -> str:
        """Return the name of the instances' role and of their instance profile."""
        return f"wren-{self.fleet}-instance"

    @property
    def launch_template(self) -> str:
        """Return the launch template's name."""
        return f"wren-{self.fleet}"

    @property
    def log_group(self) -> str:
        """Return the log group's name; all fleets share it."""
        return "pywren-standalone"

    def audience(self, queue_name: str) -> str:
        """Return what a chunk message binds itself to."""
        return f"{self.region}/{self.account}/{queue_name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a client may set. Times in seconds.

    What no queue and no instance has is sent again after ``lost_time``, then twice that, and so on.
    """

    backend: str = ""
    fleet: str = ""
    region: str = ""
    profile: str = ""
    job_max_runtime: float = 3600.0
    map_item_limit: int = 0
    progress: bool | None = None
    sandbox_dir: str = ""
    lost_time: float = 180.0

    def __post_init__(self) -> None:
        """Refuse what would send everything again all the time."""
        if self.lost_time <= 0:
            raise ConfigError(f"lost_time = {self.lost_time:g} is no time to wait; give a number of seconds above 0.")

    @property
    def fleet_name(self) -> str:
        """Return the fleet to use when none was named."""
        return self.fleet or "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceConfig:
    """What user-data tells an instance. Times in seconds.

    ``slots`` is "auto" (one per core) or a number; ``runtime`` is the interpreter that runs calls, "" for the
    daemon's own. ``memory_bytes`` is what all slots may hold together, 0 for what the machine has.
    """

    fleet: str
    account: str
    region: str
    python: str
    slots: str = "auto"
    runtime: str = ""
    idle_timeout: float = 300.0
    max_lifetime: float = 28800.0
    lease_time: float = 90.0
    boot_timeout: float = 900.0
    stale_timeout: float = 300.0
    deadman_interval: float = 30.0
    kill_grace_time: float = 2.0
    publish_timeout: float = 900.0
    cancel_interval: float = 4.0
    memory_bytes: int = 0
    launch_id: str = ""
    version: str = ""

    @property
    def names(self) -> Names:
        """Return the names of the fleet's things."""
        return Names(fleet=self.fleet, account=self.account, region=self.region)

    def to_json(self) -> str:
        """Return the file that user-data writes."""
        # a line a field, and no indentation: user-data is small
        return json.dumps({field.name: getattr(self, field.name) for field in fields(self)}, indent=0)


def config_path(environ: Mapping[str, str]) -> Path:
    """Return where the client's config file is, whether it exists or not."""
    if environ.get("WREN_CONFIG"):
        return Path(environ["WREN_CONFIG"])
    base = environ.get("XDG_CONFIG_HOME") or str(Path(environ.get("HOME", "~")).expanduser() / ".config")
    return Path(base) / "wren" / "config.toml"


def _refuse_unknown(names: Mapping[str, Any], known: Mapping[str, Any], where: str) -> None:
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean '{near[0]}'?" if near else f" Known are: {', '.join(sorted(known))}."
            raise ConfigError(f"'{name}' in {where} is not a setting.{hint}", name=name)


def _convert(name: str, value: Any, kind: Any, where: str) -> Any:
    try:
        if kind in (bool, bool | None):
            if isinstance(value, bool) or value is None:
                return value
            return {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}[str(value).lower()]
        if isinstance(value, bool) or not isinstance(value, (str, int, float, os.PathLike)):
            raise ValueError  # noqa: TRY004 - turned into a ConfigError below
        found = kind(value)
        # int() cuts a fraction off in silence; no setting means NaN or infinity
        if kind in (int, float) and (not math.isfinite(found) or (isinstance(value, float) and value != found)):
            raise ValueError
        return found
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        expected = {float: "a number", int: "a whole number", str: "text"}.get(kind, "true or false")
        raise ConfigError(f"{name} = {value!r} in {where} is not {expected}.", name=name) from error


def load_settings(environ: Mapping[str, str] | None = None, **arguments: object) -> Settings:
    """Return the client's settings; arguments that are None do not count.

    Raises:
        ConfigError: A key is unknown or a value malformed.
    """
    environ = os.environ if environ is None else environ
    kinds = get_type_hints(Settings)
    values: dict[str, Any] = {}
    path = config_path(environ)
    if path.is_file():
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:  # also of a number that is too long to read
            raise ConfigError(f"{path} is not TOML: {error}.") from error
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}.") from error
        _refuse_unknown(content, kinds, str(path))
        values |= {name: _convert(name, value, kinds[name], str(path)) for name, value in content.items()}
    for name, kind in kinds.items():
        variable = f"WREN_{name.upper()}"
        if environ.get(variable):
            values[name] = _convert(variable, environ[variable], kind, "the environment")
    given = {name: value for name, value in arguments.items() if value is not None}
    _refuse_unknown(given, kinds, "the arguments")
    values |= {name: _convert(name, value, kinds[name], "the arguments") for name, value in given.items()}
    return Settings(**values)


def load_instance_config(path: Path) -> InstanceConfig:
    """Return the configuration that user-data wrote.

    Raises:
        ConfigError: The file is missing, is no JSON, or has unknown or malformed keys.
    """
    try:
        with path.open("rb") as file:
            content = json.loads(file.read(_MOST_CONFIG_BYTES), object_pairs_hook=_once)
    except OSError as error:
        raise ConfigError(f"The instance's configuration {path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"The instance's configuration {path} is not JSON: {error}.") from error
    if not isinstance(content, dict):
        raise ConfigError(f"The instance's configuration {path} is not a JSON object.")
    kinds = get_type_hints(InstanceConfig)
    _refuse_unknown(content, kinds, str(path))
    values = {name: _convert(name, value, kinds[name], str(path)) for name, value in content.items()}
    missing = [name for name in ("fleet", "account", "region", "python") if not values.get(name)]
    if missing:
        raise ConfigError(f"The instance's configuration {path} lacks {', '.join(missing)}.")
    config = InstanceConfig(**values)
    _check_instance(config, str(path))
    return config


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found


def _check_instance(config: InstanceConfig, where: str) -> None:
    """Refuse what an instance would stumble over later: names that AWS does not have, times that never or always are.

    Raises:
        ConfigError: Names the setting.
    """
    config.names  # noqa: B018 - a fleet that cannot be one raises
    for name, pattern in _SHAPES.items():
        value = getattr(config, name)
        if not pattern.fullmatch(value):
            raise ConfigError(f"{name} = {value!r} in {where} is malformed.", name=name)
    for field in fields(config):
        value = getattr(config, field.name)
        if isinstance(value, float) and not 0 < value <= _LONGEST_TIME:
            raise ConfigError(f"{field.name} = {value:g} in {where} is no number of seconds above 0.", name=field.name)
        if isinstance(value, int) and not 0 <= value < 2**63:
            raise ConfigError(f"{field.name} = {value} in {where} is out of range.", name=field.name)
        if isinstance(value, str) and not value.isprintable():
            raise ConfigError(f"{field.name} = {value!r} in {where} is not plain text.", name=field.name)
