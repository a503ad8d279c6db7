#!/usr/bin/env python3
"""The dead-man: powers an instance off when nothing else did.

A timer runs it every half minute, on EC2 and in the sandbox. It needs the standard library only and trusts nothing:
not the configuration, not the daemon, not cloud-init. It powers off when

- no heartbeat appeared within ``boot_timeout`` of the boot,
- the heartbeat is older than ``stale_timeout`` (only the daemon's loop writes it),
- the instance is up for longer than ``max_lifetime`` + 180 s,
- this is the second boot: an instance lives once.

The first runs that want it ask ``systemctl poweroff``; if the machine still lives, later ones force it.
All times are seconds of CLOCK_BOOTTIME, which counts time suspended.
"""

import json
import os
import subprocess
import sys
import time

DEFAULTS = {"boot_timeout": 900.0, "stale_timeout": 300.0, "max_lifetime": 28800.0}
LIFETIME_GRACE = 180.0
#: Seconds for one request to work; an orderly shutdown takes up to 20.
PATIENCE = 25.0


def now():
    """Return seconds since boot, time suspended included."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def read_number(path):
    """Return the number on a file's first line, None when there is none."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return float(file.readline())
    except (OSError, ValueError):
        return None


def write_text(path, text):
    """Write a file in one step, so that no reader sees half of it."""
    with open(f"{path}.new", "w", encoding="ascii") as file:
        file.write(text)
    os.replace(f"{path}.new", path)


def load_limits(path):
    """Return the limits; whatever is missing or broken has its default."""
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except (OSError, ValueError, RecursionError):
        content = {}
    limits = {}
    for name, default in DEFAULTS.items():
        try:
            value = float(content[name])
            limits[name] = value if 0 < value < float("inf") else default
        except (KeyError, TypeError, ValueError, OverflowError):
            limits[name] = default
    return limits


def boot_id(environ):
    """Return what names this boot; the sandbox, whose instances share a kernel, says it by WREN_BOOT_ID."""
    if environ.get("WREN_BOOT_ID"):
        return environ["WREN_BOOT_ID"]
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def is_second_boot(work_dir, current):
    """Return whether another boot left its mark on the disk; leave ours when there is none."""
    path = os.path.join(work_dir, "boot_id")
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return bool(current) and file.read().strip() != current
    except FileNotFoundError:
        write_text(path, current)
        return False


def verdict(limits, booted, heartbeat, clock):
    """Return why the machine must go, None when it may stay. Pure."""
    if clock - booted > limits["max_lifetime"] + LIFETIME_GRACE:
        return "max_lifetime"
    if heartbeat is None:
        return "no_heartbeat_after_boot" if clock - booted > limits["boot_timeout"] else None
    return "stale_heartbeat" if clock - heartbeat > limits["stale_timeout"] else None


def power_off(run_dir, log_dir, reason, clock, console=None):
    """Ask for power-off; when an earlier request had its time and was not enough, ask harder."""
    path = os.path.join(run_dir, "deadman.asked")
    try:
        with open(path, encoding="ascii") as file:
            n_asked, asked = (float(word) for word in file.read().split())
    except (OSError, ValueError):
        n_asked, asked = 0, -PATIENCE
    if clock - asked < PATIENCE:
        return
    try:
        write_text(path, f"{n_asked + 1:.0f} {clock:.3f}\n")
    except OSError:
        n_asked += 1  # no count can be kept, so there will be no next step: take it now
    # without --no-block it may wait for the very shutdown that hangs
    command = ["systemctl", "poweroff", "--no-block"] + ["--force"] * int(min(n_asked, 2))
    line = {"timestamp": round(time.time(), 3), "event": "deadman.power_off", "reason": reason, "command": command}
    append(os.path.join(log_dir, "deadman.log"), json.dumps({**line, "clock": round(clock, 3)}))
    if console:
        # EC2 keeps what stands on the console, which is all there is when the disk is full
        append(console, f"wren: deadman: {reason}, {' '.join(command)}")
    try:
        subprocess.run(command, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as error:
        append(os.path.join(log_dir, "deadman.log"), str(error))


def append(path, line):
    """Append one line; a full disk or a stuck console must not keep the machine on."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOCTTY | os.O_NONBLOCK, 0o644)
        try:
            os.write(descriptor, f"{line}\n".encode())
        finally:
            os.close(descriptor)
    except OSError:
        pass


def main(environ):
    """Look once."""
    run_dir = environ.get("WREN_RUN_DIR", "/run/wren")
    log_dir = environ.get("WREN_LOG_DIR", "/var/log/wren")
    work_dir = environ.get("WREN_WORK_DIR", "/var/lib/wren")
    clock = now()
    limits = load_limits(environ.get("WREN_INSTANCE_CONFIG", "/etc/wren/instance.json"))
    booted = read_number(os.path.join(run_dir, "booted"))
    reason = None
    try:
        for folder in (run_dir, log_dir, work_dir):
            os.makedirs(folder, exist_ok=True)
        if booted is None:
            booted = clock
            write_text(os.path.join(run_dir, "booted"), f"{clock:.3f}\n")
        if is_second_boot(work_dir, boot_id(environ)):
            reason = "second_boot"
    except OSError as error:
        sys.stderr.write(f"deadman: {error}\n")
        # nothing can be kept, so count from the kernel's own boot
        booted = 0.0 if booted is None else booted
    reason = reason or verdict(limits, booted, read_number(os.path.join(run_dir, "heartbeat")), clock)
    if reason is not None:
        power_off(run_dir, log_dir, reason, clock, environ.get("WREN_CONSOLE"))


if __name__ == "__main__":
    main(os.environ)
