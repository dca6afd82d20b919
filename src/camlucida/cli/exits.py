"""How a command ends: its exit code, and each error as a line on standard error."""

from __future__ import annotations

import sys

import typer

SOME_FAILED, WRONG_USAGE = 1, 2
"""Exit codes: some inputs failed, each named, the rest done; or the command was called wrongly."""


def say(message: str) -> None:
    """Print a message as one line on standard error."""
    from camlucida.images.picture import shown

    print(shown(" ".join(message.splitlines())), file=sys.stderr)


class Failures:
    """An error collector: prints each error that it is called with, and counts them."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, error: object) -> None:
        """Print an error and count it."""
        self.count += 1
        say(f"error: {error}")

    def exit(self) -> None:
        """End the command with its exit code if anything failed."""
        if self.count:
            raise typer.Exit(SOME_FAILED)
