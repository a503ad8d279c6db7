"""One machine: systemd as PID 1 in its own namespaces, over layers of disk that stay as they were."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
from beside import Beside
from network import Network

CLOUD_UNITS = ("cloud-init-local", "cloud-init", "cloud-config", "cloud-final", "cloud-init-main", "cloud-init-network")

#: Mounts the layers, boots, and brings out what the machine wrote before its disk is gone.
_BOOT = """
set -u; rc=0
[ -z "$SIZE" ] || mount -t tmpfs -o size=$SIZE none "$DISK"
mkdir -p "$DISK/upper" "$DISK/work" "$DISK/root"
mount -t overlay -o "lowerdir=$LAYERS,upperdir=$DISK/upper,workdir=$DISK/work" none "$DISK/root" || exit 97
cp -r "$EXTRA/." "$DISK/root/"
if [ "$(stat -f -c %T /sys/fs/cgroup)" != cgroup2fs ]; then
    umount -R -l /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup || exit 98
fi
mkdir -p "/sys/fs/cgroup/$NAME"; echo $$ > "/sys/fs/cgroup/$NAME/cgroup.procs" || exit 99
# --register=no: there is no machined here. The console is a terminal of its own, as on a real machine.
SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 systemd-nspawn -q -D "$DISK/root" -M "$NAME" --register=no --keep-unit \
    --network-namespace-path="/run/netns/$NETNS" --resolv-conf=off --timezone=off \
    --link-journal=no --console=read-only \
    --kill-signal=SIGRTMIN+4 --boot </dev/null 2>&1 | cat >>"$OUT/console.log" || rc=$?
mkdir -p "$OUT/log"; cp -r "$DISK/root/var/log/." "$OUT/log/" 2>/dev/null
cp -r "$DISK/root/var/lib/cloud/data" "$OUT/" 2>/dev/null
journalctl -D "$OUT/log/journal" -q --no-hostname -o json >"$OUT/journal.json" 2>/dev/null
exit $rc
"""

_DMIDECODE = """#!/bin/sh
case "$2" in
system-uuid | system-serial-number) echo ec2e1916-9099-7caf-fd21-012345abcdef ;;
system-manufacturer) echo "Amazon EC2" ;;
system-product-name) echo c6i.large ;;
esac
"""
_CLOUD = """datasource_list: [Ec2]
datasource: {Ec2: {max_wait: 8, timeout: 2}}
network: {config: disabled}
locale: false
"""


class Machine(Beside):
    """From power on to off."""

    def __init__(self, name: str, folder: Path, layers: tuple[Path, ...], *, user_data: str) -> None:
        super().__init__(name, folder, Network(name), user_data=user_data)
        self.layers = layers
        self.disk_size = "600m"  # "" keeps it in the folder, for another boot
        self._vm: subprocess.Popen[bytes] | None = None
        self._init: psutil.Process | None = None
        self._seen = False

    def furnish(self, *, look_interval: float = 1.0) -> None:
        """What only the drill needs: cloud-init must take this for EC2, and the SDKs must find the sandbox."""
        self.put("/opt/drill/not-a-container", "#!/bin/sh\nexit 1\n", 0o755)
        self.put("/opt/drill/empty", "")
        self.put("/usr/local/sbin/dmidecode", _DMIDECODE, 0o755)
        self.put("/etc/cloud/cloud.cfg.d/95_drill.cfg", _CLOUD)
        hidden = "/opt/drill/not-a-container:/usr/bin/systemd-detect-virt /opt/drill/empty:/proc/1/environ"
        for unit in CLOUD_UNITS:
            self.drop_in(f"{unit}.service", f"[Service]\nBindReadOnlyPaths={hidden}\n")
        self.point()
        # an empty one takes all of them away
        timer = f"[Timer]\nOnUnitActiveSec=\nOnBootSec=0\nOnUnitActiveSec={look_interval}s\nAccuracySec=100ms\n"
        self.drop_in("wren-deadman.timer", timer)

    def boot(self) -> None:
        """Power on."""
        self._init, self._seen = None, False
        environ = {
            "PATH": os.environ["PATH"],
            "NAME": self.name,
            "NETNS": self.network.machine,
            "LAYERS": ":".join(map(str, self.layers)),
            "DISK": str(self.disk),
            "SIZE": self.disk_size,
            "EXTRA": str(self.extra),
            "OUT": str(self.folder),
        }
        command = ["unshare", "-m", "--propagation", "private", "bash", "-c", _BOOT]
        self.booted_timestamp = time.time()
        with (self.folder / "vm.log").open("ab") as log:
            self._vm = subprocess.Popen(command, env=environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def wait_off(self, timeout: float) -> float:
        """Wait until it is off; return when that was."""
        assert self._vm is not None
        self.until(lambda: self.init() is None and self._started(), timeout, "power-off")
        self.off_timestamp = time.time()
        if self._vm.wait(60) >= 97:
            raise RuntimeError(f"{self.name} could not be started: {(self.folder / 'vm.log').read_text()[-1000:]}")
        return self.off_timestamp

    def _started(self) -> bool:
        assert self._vm is not None
        return self._vm.poll() is not None or ((self.folder / "console.log").exists() and self._seen)

    def processes(self) -> list[psutil.Process]:
        """Return everything of this machine's tree, as this host sees it."""
        if self._vm is None or self._vm.poll() is not None:
            return []
        try:
            return psutil.Process(self._vm.pid).children(recursive=True)
        except psutil.Error:
            return []

    def init(self) -> int | None:
        """Return the pid of its PID 1, None when it does not run."""
        if self._init is not None and self._init.is_running() and self._init.status() != psutil.STATUS_ZOMBIE:
            return self._init.pid
        self._init = self._find_init()
        return None if self._init is None else self._init.pid

    def _find_init(self) -> psutil.Process | None:
        for process in self.processes():
            try:
                status = Path(f"/proc/{process.pid}/status").read_text()
            except OSError:
                continue
            numbers = next(line.split()[1:] for line in status.splitlines() if line.startswith("NSpid:"))
            if len(numbers) > 1 and numbers[-1] == "1" and "State:\tZ" not in status:
                self._seen = True
                return process
        return None

    def find(self, *words: str) -> psutil.Process | None:
        """Return the process whose command line has these words."""
        for process in self.processes():
            try:
                line = process.cmdline()
            except psutil.Error:
                continue
            if all(word in line for word in words) and "unshare" not in line:
                return process
        return None

    def daemon(self) -> psutil.Process | None:
        return self.find("wren_worker", "daemon")

    def root(self) -> Path:
        """Return its root folder while it runs."""
        return Path(f"/proc/{self.init()}/root")

    def press_button(self) -> None:
        """What EC2 does on TerminateInstances: the ACPI button, which systemd answers by an orderly power-off."""
        os.kill(self.init() or 0, signal.SIGRTMIN + 4)

    def cut(self) -> None:
        """Take the power away, and let what was written be brought out."""
        if self._vm is None:
            return
        init = self.init()
        if init is not None:
            os.kill(init, signal.SIGKILL)
        try:
            self._vm.wait(20)
        except subprocess.TimeoutExpired:
            for process in self.processes():
                try:
                    process.kill()
                except psutil.Error:
                    pass
            self._vm.kill()
            self._vm.wait()
