"""A machine with a kernel and firmware of its own, in qemu without hardware's help: what no container can show."""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import kerneldisk
from beside import Beside
from host import in_netns, run
from network import MAC, Lonely

MEMORY_MIB = 1024
#: SMBIOS as EC2's, by which cloud-init knows where it is.
_UUID = "ec2e1916-9099-7caf-fd21-012345abcdef"
_SMBIOS = f"type=1,manufacturer=Amazon EC2,product=c6i.large,serial={_UUID},uuid={_UUID}"
_ADDRESS = "169.254.10.15"
#: The metadata service's address is qemu's name for the loopback of the namespace that it runs in.
_NETWORK = f"user,id=net,net=169.254.0.0/16,host=169.254.169.254,dhcpstart={_ADDRESS}"

#: A shell for the drill on the second serial line, which no layer knows of and no lack of memory ends.
_SHELL_UNIT = """[Unit]
DefaultDependencies=no
After=systemd-remount-fs.service
[Service]
ExecStart=/bin/sh -c 'stty raw -echo; echo "@@ready"; cat | exec sh 2>&1'
StandardInput=tty
StandardOutput=tty
StandardError=journal
TTYPath=/dev/ttyS1
OOMScoreAdjust=-1000
IgnoreSIGPIPE=no
"""


class KernelMachine(Beside):
    """From power on to off. A thread each reads what its monitor and its second serial line say."""

    def __init__(self, name: str, folder: Path, disk: kerneldisk.KernelDisk) -> None:
        super().__init__(name, folder, Lonely(name), user_data="")
        self.made_from = disk.folder
        self.image = self.disk / "root.img"
        self.imds["address"] = _ADDRESS
        self.reboots = False  # or a reboot ends it, as if it were a power-off of the wrong kind
        self.events: list[dict[str, Any]] = []
        self._qemu: subprocess.Popen[bytes] | None = None
        self._monitor: socket.socket | None = None
        self._line: socket.socket | None = None
        self._said = ""
        self._n_asked = itertools.count(1)

    def furnish(self) -> None:
        """What only the drill needs: the SDKs must find the sandbox, and the drill a shell."""
        self.point()
        self.put("/etc/systemd/system/drill-shell.service", _SHELL_UNIT)
        self.drop_in("sysinit.target", "[Unit]\nWants=drill-shell.service\n")

    # --- life -------------------------------------------------------------------------------------------------------

    def boot(self) -> None:
        """Power on."""
        run(["cp", "--sparse=always", self.made_from / "root.img", self.image])
        kerneldisk.write_files(self.image, self.extra)
        self._monitor, monitor = socket.socketpair()
        self._line, line = socket.socketpair()
        command: list[str | Path] = [
            *("qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", str(MEMORY_MIB)),
            *("-nodefaults", "-display", "none", "-smbios", _SMBIOS, "-device", "virtio-rng-pci"),
            *("-kernel", self.made_from / "vmlinuz", "-initrd", self.made_from / "initrd"),
            *("-append", "root=/dev/vda console=ttyS0 net.ifnames=0 quiet"),
            *("-drive", f"file={self.image},if=virtio,format=raw,cache=unsafe"),
            *("-netdev", _NETWORK, "-device", f"virtio-net-pci,netdev=net,mac={MAC}"),
            *("-serial", f"file:{self.folder / 'console.log'}"),
            *("-chardev", f"socket,id=line,fd={line.fileno()}", "-serial", "chardev:line"),
            *("-chardev", f"socket,id=monitor,fd={monitor.fileno()}", "-mon", "chardev=monitor,mode=control"),
            *([] if self.reboots else ["-no-reboot"]),
        ]
        whole = in_netns(self.network.machine, command)
        self.booted_timestamp = time.time()
        with (self.folder / "vm.log").open("ab") as log:
            self._qemu = subprocess.Popen(
                [*map(str, whole)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(monitor.fileno(), line.fileno()),
            )
        monitor.close()
        line.close()
        self._ask_monitor("qmp_capabilities")
        for target in (self._hear_monitor, self._hear_line):
            threading.Thread(target=target, daemon=True).start()

    def wait_off(self, timeout: float) -> float:
        """Wait until it has switched itself off, by ACPI and in no other way; return when that was."""
        qemu = self._qemu
        assert qemu is not None
        self.until(lambda: qemu.poll() is not None, timeout, "power-off")
        self.off_timestamp = time.time()
        self._bring_out()
        reasons = [event["data"]["reason"] for event in self.events if event["event"] == "SHUTDOWN"]
        if reasons != ["guest-shutdown"] or qemu.returncode:
            said = (self.folder / "vm.log").read_text()[-1000:]
            raise AssertionError(f"qemu ended with {qemu.returncode}, {reasons}: {said}")
        console = (self.folder / "console.log").read_text(errors="replace")
        if "reboot: Power down" not in console:
            raise AssertionError("the console does not end with a power-off")
        return self.off_timestamp

    def cut(self) -> None:
        if self._qemu is not None and self._qemu.poll() is None:
            self._qemu.kill()
            self._qemu.wait()
            self._bring_out()
        for end in (self._monitor, self._line):
            if end is not None:
                end.close()

    def _bring_out(self) -> None:
        """Bring out what was written, when qemu is gone."""
        # what stands in the journal of a file system that was never unmounted
        subprocess.run(["e2fsck", "-fy", self.image], check=False, capture_output=True)
        for source, target in (("/var/log", self.folder), ("/var/lib/cloud/data", self.folder)):
            shutil.rmtree(self.folder / Path(source).name, ignore_errors=True)
            kerneldisk.read_folder(self.image, source, target)
        journal = ["journalctl", "-D", str(self.folder / "log/journal"), "-q", "--no-hostname", "-o", "json"]
        with (self.folder / "journal.json").open("w") as file:
            subprocess.run(journal, check=False, stdout=file, stderr=subprocess.DEVNULL)

    def press_button(self) -> None:
        """What EC2 does on TerminateInstances: the ACPI button."""
        self._ask_monitor("system_powerdown")

    # --- its lines --------------------------------------------------------------------------------------------------

    def shell(self, command: str, timeout: float = 60) -> str:
        """Run a command as root on the machine; return what it printed. Raises when it fails."""
        assert self._line is not None
        self.until(lambda: "@@ready" in self._said, 240, "shell")
        number = next(self._n_asked)
        mark = f"@@{number}:"
        before = len(self._said)
        self._line.sendall(f'( {command}\n) </dev/null; echo "{mark}$?"\n'.encode())
        self.until(lambda: mark in self._said[before:] and self._said.endswith("\n"), timeout, f"answer to: {command}")
        text, _, status = self._said[before:].partition(mark)
        if status.strip() != "0":
            raise RuntimeError(f"on the machine, '{command}' ended with {status.strip()}: {text}")
        return text

    def send_shell(self, command: str) -> None:
        """Run a command that does not come back."""
        assert self._line is not None
        self._line.sendall(f"{command}\n".encode())

    def forget_shell(self) -> None:
        """Take the shell for gone until it says that it is ready: the machine starts anew."""
        self._said = ""

    def _hear_line(self) -> None:
        assert self._line is not None
        with contextlib.suppress(OSError):
            while data := self._line.recv(65536):
                self._said += data.decode(errors="replace")

    def _ask_monitor(self, command: str) -> None:
        assert self._monitor is not None
        self._monitor.sendall(json.dumps({"execute": command}).encode())

    def _hear_monitor(self) -> None:
        assert self._monitor is not None
        with contextlib.suppress(OSError), self._monitor.makefile("r") as lines:
            for line in lines:
                found = json.loads(line)
                if "event" in found:
                    self.events.append(found)
