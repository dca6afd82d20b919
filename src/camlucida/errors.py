"""Every error that Camlucida raises on purpose: one base class, and messages that say what, where and what to do."""

from __future__ import annotations


class CamlucidaError(Exception):
    """Base of all errors raised by this library. The command line prints its message alone, without a traceback."""


class ImageError(CamlucidaError):
    """A picture could not be read or used. The message begins with the file's name."""


class ModelError(CamlucidaError):
    """A model could not be opened or run."""


class FeaturesNotFoundError(ModelError):
    """No spatial features were found in a model. The message says what was seen and how to name a layer."""


class TargetError(CamlucidaError):
    """The asked classes or score do not exist for this model."""


class MethodError(CamlucidaError):
    """A method is unknown, or cannot explain this model."""


class MissingExtraError(CamlucidaError, ImportError):
    """An optional dependency is not installed. The message names the extra to install."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"this needs {package}: pip install 'camlucida[{extra}]'", name=package)


class OutputError(CamlucidaError):
    """A result could not be written."""


class DataError(CamlucidaError):
    """A dataset, or a record of one, could not be read. The message names the file and the record."""


class TrainingError(CamlucidaError):
    """A network could not be trained or a run could not go on."""


class ExportError(CamlucidaError):
    """A model could not be written with its maps. Nothing was written."""


class ServeError(CamlucidaError):
    """The server could not be started as asked."""


def first_line(error: BaseException) -> str:
    r"""The beginning of what an error says, for a message of one line; its class's name where it says nothing.

    >>> first_line(ValueError("no such node\n  at line 3"))
    'no such node'
    """
    lines = (line.strip() for line in str(error).splitlines())
    return next(filter(None, lines), type(error).__name__)[:300]
