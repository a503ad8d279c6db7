"""``wren-standalone sandbox``: AWS on this machine."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

import click

from wren_worker.cli.main import Context, pass_context
from wren_worker.errors import FleetError
from wren_worker.sandbox import control

__all__ = ["sandbox"]


@click.group()
def sandbox() -> None:
    """AWS on this machine: SQS, S3, EC2 and CloudWatch Logs emulated, instances are local processes."""


def _directory(context: Context) -> Path:
    return control.default_directory(setting=context.settings.sandbox_dir)


def _running(context: Context) -> control.SandboxInfo:
    info = control.status(_directory(context))
    if info is None:
        raise FleetError("No sandbox is running. Start one with: wren-standalone sandbox up")
    return info


def _print_exports(context: Context, info: control.SandboxInfo) -> None:
    context.output.data({**asdict(info), "directory": str(info.directory), "exports": info.exports})
    for name, value in info.exports.items():
        context.output.say(f"export {name}={value}")


@sandbox.command()
@click.option("--port", type=click.IntRange(1, 65535), help="Of AWS on loopback.  [default: a free one]")
@pass_context
def up(context: Context, port: int | None) -> None:
    """Start the sandbox, or find the one that runs, and print the exports for it.

    Use it as: eval "$(wren-standalone sandbox up)"
    """
    info = control.up(_directory(context), port=port)
    context.output.note(f"# sandbox runs (pid {info.pid}); end it with: wren-standalone sandbox down")
    _print_exports(context, info)


@sandbox.command()
@pass_context
def down(context: Context) -> None:
    """End the sandbox and everything that runs in it."""
    ended = control.down(_directory(context))
    if ended and os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://127.0.0.1:"):
        names = "AWS_ENDPOINT_URL AWS_DEFAULT_REGION AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY"
        context.output.note(f"# this shell still points at it: unset {names}")
    context.output.data({"ended": ended})
    context.output.say("the sandbox is down, nothing of it runs" if ended else "no sandbox was running")


@sandbox.command()
@pass_context
def status(context: Context) -> None:
    """Show the sandbox, its local instances, and its exports."""
    info = _running(context)
    _print_exports(context, info)
    rows = control.machines(info)
    if not context.output.as_json:
        context.output.table(["instance_id", "instance_type", "pid", "up_time", "folder"], rows, empty="# no instances")


@sandbox.command()
@click.argument("instance_id")
@click.option("--notice-time", type=click.FloatRange(0), default=120.0, show_default=True, help="Seconds of notice.")
@pass_context
def interrupt(context: Context, instance_id: str, notice_time: float) -> None:
    """Give an instance a spot interruption notice, and take it away after that."""
    control.interrupt(_running(context), instance_id, notice_time=notice_time)
    context.output.say(f"{instance_id} has its notice and is taken away in {notice_time:g} s")


@sandbox.command()
@click.argument("instance_id")
@pass_context
def crash(context: Context, instance_id: str) -> None:
    """Kill an instance without a word."""
    control.crash(_running(context), instance_id)
    context.output.say(f"{instance_id} is gone")
