"""The command group: options that every command shares, and errors as one sentence."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from typing import Any

import click

from wren_worker.cli.output import Output
from wren_worker.config import Settings, load_settings
from wren_worker.errors import WrenError
from wren_worker.version import VERSION

__all__ = ["Context", "main", "pass_context"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What the shared options say."""

    settings: Settings
    output: Output


pass_context = click.make_pass_decorator(Context)

#: Command -> module that holds it; imported when it is asked for, so that ``--help`` and errors are quick.
_COMMANDS = {
    "demo": "demo",
    "sandbox": "sandbox",
    "setup": "setup",
    "teardown": "setup",
    "launch": "fleet",
    "ls": "fleet",
    "status": "fleet",
    "terminate": "fleet",
    "reap": "reap",
    "doctor": "doctor",
    "logs": "logs",
    "cancel": "cancel",
    "bench": "bench",
    "image": "image",
}


class _Commands(click.Group):
    """Loads commands when they are needed and turns errors into a sentence and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"wren_worker.cli.{_COMMANDS[cmd_name]}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except WrenError as error:
            if ctx.params.get("debug"):
                raise
            click.echo(f"error: {error}", err=True)
            sys.exit(1)
        except KeyboardInterrupt:
            sys.exit(130)
        except BrokenPipeError:
            sys.stderr.close()  # the reader of a pipe has gone, which is no error
            sys.exit(0)


@click.group(cls=_Commands, context_settings={"auto_envvar_prefix": "WREN", "help_option_names": ["-h", "--help"]})
@click.option("--fleet", help="The fleet to work on.  [default: default]")
@click.option("--profile", help="A profile of your AWS configuration.")
@click.option("--region", help="An AWS region; else the profile's or AWS_REGION.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@click.version_option(VERSION, prog_name="wren-standalone")
@click.pass_context
def main(
    ctx: click.Context,
    *,
    fleet: str | None,
    profile: str | None,
    region: str | None,
    as_json: bool,
    debug: bool,  # noqa: ARG001 - read by _Commands.invoke
) -> None:
    """Run plain Python functions over thousands of inputs on your own EC2 instances.

    Start with `wren-standalone demo`, which needs no AWS account.
    """
    settings = load_settings(fleet=fleet, profile=profile, region=region)
    ctx.obj = Context(settings=settings, output=Output(as_json=as_json))
