"""A machine's network and AWS's, with the metadata service, in namespaces of their own. No route leads out of them."""

from __future__ import annotations

import contextlib
import subprocess
from typing import Self

from host import in_netns, run

AWS_IP, MACHINE_IP, IMDS_IP = "10.99.0.1", "10.99.0.2", "169.254.169.254"
PORT = 4566
ENDPOINT = f"http://{AWS_IP}:{PORT}"
MAC = "02:00:00:00:00:02"

#: The sandbox serves loopback only; the machine comes in from outside.
_RULES = f"""
table ip drill {{
  chain in {{ type nat hook prerouting priority -100; ip daddr {AWS_IP} tcp dport {PORT} dnat to 127.0.0.1:{PORT}; }}
  chain cut {{ type filter hook input priority 0; }}
}}
"""


class Network:
    """Made on entering, gone on leaving."""

    endpoint = ENDPOINT

    def __init__(self, name: str) -> None:
        self.aws, self.machine = f"{name}-aws", f"{name}-vm"

    def __enter__(self) -> Self:
        for name in (self.aws, self.machine):
            run(["ip", "netns", "add", name])
            run(["ip", "-n", name, "link", "set", "lo", "up"])
        pair = ["type", "veth", "peer", "name", "aws0", "netns", self.aws]
        run(["ip", "link", "add", "eth0", "netns", self.machine, "address", MAC, *pair])
        run(["ip", "-n", self.aws, "addr", "add", f"{AWS_IP}/24", "dev", "aws0"])
        run(["ip", "-n", self.aws, "addr", "add", f"{IMDS_IP}/32", "dev", "aws0"])
        run(["ip", "-n", self.machine, "addr", "add", f"{MACHINE_IP}/24", "dev", "eth0"])
        run(["ip", "-n", self.aws, "link", "set", "aws0", "up"])
        run(["ip", "-n", self.machine, "link", "set", "eth0", "up"])
        run(["ip", "-n", self.machine, "route", "add", f"{IMDS_IP}/32", "dev", "eth0"])
        run(in_netns(self.aws, ["sysctl", "-q", "-w", "net.ipv4.conf.aws0.route_localnet=1"]))
        run(in_netns(self.aws, ["nft", "-f", "-"]), input=_RULES)
        return self

    def __exit__(self, *_: object) -> None:
        for name in (self.machine, self.aws):
            with contextlib.suppress(subprocess.SubprocessError):
                subprocess.run(["ip", "netns", "del", name], check=False, stderr=subprocess.DEVNULL)

    def cut(self, port: int, *, verdict: str = "drop") -> None:
        """Let nothing of the machine's through to a port: packets vanish, or are refused."""
        # after the nat chain, so by interface and by where it now leads
        rule = ["add", "rule", "ip", "drill", "cut", "iifname", "aws0", "tcp", "dport", str(port), *verdict.split()]
        run(in_netns(self.aws, ["nft", *rule]))


class Lonely(Network):
    """AWS's namespace alone: the machine's network is qemu's own, which leads to this loopback and nowhere else."""

    endpoint = f"http://{IMDS_IP}:{PORT}"

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.machine = self.aws

    def __enter__(self) -> Self:
        run(["ip", "netns", "add", self.aws])
        run(["ip", "-n", self.aws, "link", "set", "lo", "up"])
        # for programs of this host that take themselves for an instance
        run(["ip", "-n", self.aws, "addr", "add", f"{IMDS_IP}/32", "dev", "lo"])
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(subprocess.SubprocessError):
            subprocess.run(["ip", "netns", "del", self.aws], check=False, stderr=subprocess.DEVNULL)
