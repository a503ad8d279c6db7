"""What stands beside a machine, of whatever kind it is: its AWS, its users, and another instance's daemon."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from host import in_netns, run
from network import Network

HERE = Path(__file__).resolve().parent
#: What asks AWS for something, and must find the sandbox.
SERVICES = ("wren-supervisord", "wren-lastwords", "wren-bootlog", "wren-failed@", "cloud-final")


class Beside:
    """An AWS and a disk to be written on. A kind of machine says how that is booted, and how its power is cut."""

    def __init__(self, name: str, folder: Path, network: Network, *, user_data: str) -> None:
        self.name = name
        self.folder = folder
        self.network = network
        self.user_data = user_data
        self.instance_id = f"i-{os.getpid():08x}{abs(hash(name)) % (1 << 36):09x}"
        self.extra = folder / "extra"
        self.disk = folder / "disk"
        self.booted_timestamp = 0.0
        self.off_timestamp = 0.0
        self._aws: subprocess.Popen[str] | None = None
        for path in (self.extra, self.disk):
            path.mkdir(parents=True, exist_ok=True)
        self.imds: dict[str, Any] = {
            "instance_id": self.instance_id,
            "user_data": str(folder / "user-data"),
            "tags": {},
        }

    def __enter__(self) -> Self:
        try:
            self.network.__enter__()
            (self.folder / "user-data").write_text(self.user_data)
            self.tell_imds()
            log = (self.folder / "aws.log").open("ab")
            command = in_netns(self.network.aws, [sys.executable, HERE / "aws.py", self.folder])
            self._aws = subprocess.Popen([*map(str, command)], stdin=subprocess.PIPE, stdout=log, stderr=log, text=True)
            self.until((self.folder / "aws.ready").exists, 40, "AWS")
            self.client("prepare")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()
        if self._aws is not None:
            self._aws.kill()
            self._aws.wait()
        self.network.__exit__()
        subprocess.run(["rm", "-rf", str(self.disk), str(self.extra)], check=False)

    def cut(self) -> None:
        """Take the power away, and let what was written be brought out."""
        raise NotImplementedError

    def put(self, path: str, text: str, mode: int = 0o644) -> None:
        """Place a file on the disk."""
        target = self.extra / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(mode)

    def drop_in(self, unit: str, text: str, name: str = "90-drill") -> None:
        self.put(f"/etc/systemd/system/{unit}.d/{name}.conf", text)

    def point(self) -> None:
        """Have the SDKs find the sandbox, and the journal kept."""
        for unit in SERVICES:
            setting = f"[Service]\nEnvironment=AWS_ENDPOINT_URL={self.network.endpoint}\n"
            self.drop_in(f"{unit}.service", setting, "91-drill")
        (self.extra / "var/log/journal").mkdir(parents=True, exist_ok=True)

    def tell_imds(self, **facts: Any) -> None:
        self.imds |= facts
        path = self.folder / "imds.json"
        path.with_suffix(".new").write_text(json.dumps(self.imds))
        path.with_suffix(".new").rename(path)

    def until(self, done: Callable[[], object], timeout: float, what: str) -> float:
        began = time.monotonic()
        while not done():
            if time.monotonic() - began > timeout:
                raise TimeoutError(f"{self.name}: no {what} within {timeout:.0f} s; see {self.folder}")
            time.sleep(0.1)
        return time.monotonic() - began

    def until_polling(self, timeout: float = 40) -> None:
        """Wait for the daemon's first poll."""
        self.until(lambda: self.operations("sqs.ReceiveMessage"), timeout, "first ReceiveMessage")

    def operations(self, name: str) -> list[float]:
        """Return when the machine asked for an operation."""
        path = self.folder / "operations.log"
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [line["timestamp"] for line in lines if line["operation"] == name and line["who"] == "machine"]

    def client(self, *arguments: object) -> dict[str, Any]:
        """Run the client to its end."""
        command = in_netns(self.network.aws, [sys.executable, HERE / "client.py", *map(str, arguments)])
        found: dict[str, Any] = json.loads(run(command, timeout=200, env=self._client_environ()).splitlines()[-1])
        return found

    def start_client(self, *arguments: object) -> subprocess.Popen[str]:
        command = in_netns(self.network.aws, [sys.executable, HERE / "client.py", *map(str, arguments)])
        with (self.folder / "client.log").open("ab") as log:
            return subprocess.Popen(
                [*map(str, command)], stdout=subprocess.PIPE, stderr=log, text=True, env=self._client_environ()
            )

    def _client_environ(self) -> dict[str, str]:
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        return {"PATH": os.environ["PATH"], "HOME": str(home), "LC_ALL": "C.UTF-8"}

    def rescue(self) -> subprocess.Popen[bytes]:
        """Start another instance's daemon on this host, which finishes what the machine gave back."""
        self.tell_imds(instance_id="i-0123456789abcdef0", interruption=None, tags={})
        folder = self.folder / "rescue"
        for name in ("run", "log", "work", "bin"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        shutil.copy(self.folder / "rescue.json", folder / "instance.json")
        stub = folder / "bin" / "systemctl"
        stub.write_text("#!/bin/sh\nexit 0\n")
        stub.chmod(0o755)
        environ = self._client_environ() | {
            "PATH": f"{folder}/bin:{os.environ['PATH']}",
            "AWS_ENDPOINT_URL": "http://127.0.0.1:4566",
            "WREN_INSTANCE_CONFIG": str(folder / "instance.json"),
            "WREN_CORES": "4",
            **{f"WREN_{name.upper()}_DIR": str(folder / name) for name in ("run", "log", "work")},
        }
        command = in_netns(self.network.aws, [sys.executable, "-m", "wren_worker", "daemon"])
        with (folder / "daemon.log").open("ab") as log:
            return subprocess.Popen([*map(str, command)], env=environ, cwd=folder, stdout=log, stderr=log)
