"""The command line: a file a command. It parses, calls the library and prints; an error is a line, no traceback."""

from __future__ import annotations

import io
import sys
import warnings
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand

from camlucida.cli.exits import WRONG_USAGE, say
from camlucida.cli.options import three_numbers
from camlucida.errors import CamlucidaError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
                  help="Class activation maps for any classifier.")  # fmt: skip

COMMANDS = ("train", "evaluate", "localizer", "probe", "finegrained", "export", "serve", "web", "map", "models",
            "methods", "info", "compare")  # fmt: skip
"""Each is a function in the module of its name; the help shows them in this order."""


class NumbersOfChannels(TyperCommand):
    """A command whose options of three numbers take one for all, or commas between them."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The arguments, with three numbers for such options."""
        return super().parse_args(ctx, three_numbers(args))


for name in COMMANDS:
    app.command(name, cls=NumbersOfChannels)(getattr(import_module(f"camlucida.cli.{name}"), name))


def main() -> None:
    """Run the command line: errors become one line and an exit code."""
    warnings.filterwarnings("ignore", module=r"PIL\.")  # damaged EXIF and the like: the picture is read or refused
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names that the terminal's encoding lacks
    try:
        app()
    except CamlucidaError as error:
        say(f"error: {error}")
        sys.exit(WRONG_USAGE)
