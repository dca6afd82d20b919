"""The optional package ``onnx``, in one place: without it, whoever imports this learns what to install."""

from __future__ import annotations

from camlucida.errors import MissingExtraError

try:
    import onnx.inliner
    import onnx.version_converter
    from google.protobuf.message import DecodeError, EncodeError  # type: ignore[import-untyped]

    import onnx
except ModuleNotFoundError as error:
    raise MissingExtraError("onnx", "export") from error

__all__ = ["DecodeError", "EncodeError", "onnx"]
