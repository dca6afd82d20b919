"""ONNX Runtime: which device runs a graph, with how many threads, and batches as the graph takes them."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camlucida.errors import ModelError, first_line
from camlucida.onnx.external_data import ADVICE
from camlucida.onnx.foreign_metadata import PictureInput

_SUFFIX = "ExecutionProvider"
_SPOKEN = {"directml": "dml", "tensorrt-rtx": "nvtensorrtrtx"}
"""Names that people use where ONNX Runtime's own differ from them."""
_ONE_AT_A_TIME = {"DmlExecutionProvider"}
"""Providers whose sessions must not run in two threads at once."""
_CHANNELS = (1, 3, 4)
"""Of pictures; an axis of such a size holds them, and no rows or columns."""
_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64,
          "tensor(uint8)": np.uint8, "tensor(int32)": np.int32, "tensor(int64)": np.int64}  # fmt: skip


def available() -> tuple[str, ...]:
    """The providers of the installed ONNX Runtime by their short names: ``cpu``, ``cuda``, ``coreml`` and so on.

    Example:
        >>> "cpu" in available()
        True
    """
    import onnxruntime

    return tuple(_short(name) for name in onnxruntime.get_available_providers())


def providers_of(names: Sequence[str]) -> list[str]:
    """ONNX Runtime's own names of providers, the CPU behind them for what they cannot run.

    Args:
        names: short (``cuda``, ``coreml``, ``directml``) or ONNX Runtime's own, in any case; the first is preferred.

    Raises:
        ModelError: one is unknown, or not in the installed ONNX Runtime.

    Example:
        >>> providers_of(["CPU"])
        ['CPUExecutionProvider']
    """
    import onnxruntime

    known = {_short(name): name for name in onnxruntime.get_all_providers()}
    here = ", ".join(available())
    wanted = []
    for name in names:
        short = _short(name.strip())
        short = _SPOKEN.get(short, short)
        if short not in known:
            raise ModelError(f"there is no provider {name!r}; this ONNX Runtime has {here}")
        if short not in available():
            raise ModelError(
                f"provider {name!r} is not in the installed ONNX Runtime, which has {here}; "
                "install the build of onnxruntime that has it"
            )
        wanted.append(known[short])
    return list(dict.fromkeys((*wanted, f"CPU{_SUFFIX}")))


def _short(provider: str) -> str:
    return provider.lower().removesuffix(_SUFFIX.lower())


def open_session(
    content: bytes | Path,
    name: str,
    *,
    providers: Sequence[str] | None = None,
    threads: int | None = None,
    optimize: bool = True,
    folder: Path | None = None,
) -> Any:
    """An ``onnxruntime.InferenceSession``.

    Args:
        content: the graph, which ``external_data.content_of`` or ``onnx.load`` looked at: whatever file its tensors
            name is opened.
        name: what messages call it.
        providers: see ``providers_of``; None is the CPU.
        threads: on the CPU, within one operation; None: as many as there are cores.
        optimize: whether ONNX Runtime may rewrite the graph.
        folder: where the external data of bytes lie, if it has any.

    Raises:
        ModelError: not a readable graph, or a provider that is not there or does not start.
    """
    import onnxruntime

    if threads is not None and threads < 1:
        raise ModelError(f"threads: expected a whole number of at least 1, got {threads}")
    wanted = providers_of(providers or ["cpu"])
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if threads is not None:
        options.intra_op_num_threads = threads
    # Threads that wait for work by spinning would take it away from those that decode and draw pictures.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if folder is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder.resolve()))
    if _ONE_AT_A_TIME & set(wanted):
        options.enable_mem_pattern = False
    try:
        graph = str(content) if isinstance(content, Path) else content
        session = onnxruntime.InferenceSession(graph, options, providers=wanted)
    except Exception as error:  # ONNX Runtime raises its own types, none of them public
        why = "not a readable ONNX model"
        if "xternal" in str(error):
            why = f"keeps weights in another file that is not followed; {ADVICE}"
        elif "NOT_IMPLEMENTED" in str(error) or "opset" in str(error):
            why = "has operations that this ONNX Runtime does not run, or not in their opset; export it with another"
        raise ModelError(f"{name}: {why} ({first_line(error)})") from error
    missing = [_short(each) for each in wanted if each not in session.get_providers()]
    if missing:  # ONNX Runtime goes on with the CPU where a provider's own libraries are not found
        raise ModelError(
            f"provider {missing[0]!r} did not start; its libraries or its device are missing "
            f"(running without it: {', '.join(map(_short, session.get_providers()))})"
        )
    return session


@dataclass(frozen=True)
class InputLayout:
    """How a graph takes its pictures.

    Attributes:
        batch: how many at once, where that is fixed.
        channels: 3 where they are not fixed.
        channels_last: whether it takes (N, H, W, C), as Keras' graphs do.
        space: height and width (or other spatial axes); None where a size is not fixed.
    """

    batch: int | None
    channels: int
    channels_last: bool
    space: tuple[int | None, ...]

    def pictures(self, whole_numbers: bool) -> PictureInput:
        """What it says of its pictures; ``whole_numbers``: whether it takes pixels as such."""
        height, width = self.space if len(self.space) == 2 else (None, None)
        return PictureInput(self.channels, height, width, whole_numbers)

    @property
    def fixed_hw(self) -> tuple[int, int] | None:
        """Height and width, where both are fixed."""
        height, width = self.space if len(self.space) == 2 else (None, None)
        return (height, width) if height and width else None


def input_layout(shape: Sequence[Any]) -> InputLayout:
    """The layout of an input; sizes that are no whole numbers above 0 are not fixed.

    >>> input_layout(["batch", 224, 224, 3])
    InputLayout(batch=None, channels=3, channels_last=True, space=(224, 224))
    """
    sizes = [size if isinstance(size, int) and size > 0 else None for size in shape]
    last = len(sizes) == 4 and sizes[3] in _CHANNELS and sizes[1] not in _CHANNELS
    batch, channels, *space = [sizes[0], sizes[3], *sizes[1:3]] if last else [*sizes, None, None][: max(2, len(sizes))]
    return InputLayout(batch, channels or 3, last, tuple(space))


class OnnxSession:
    """An ONNX graph whose one input are pictures, run on batches of any size. Safe to call from several threads.

    Args:
        content: the graph.
        name: what messages call it.
        providers: see ``open_session``.
        threads: see ``open_session``.
        folder: where its external data lie, if it has any (see ``external_data.content_of``).
        beside: names of inputs that are not the pictures; ``run`` is given them as ``extra``.

    Attributes:
        name: as given.
        metadata: the file's own.
        input: the pictures' name.
        shape: theirs, as the file says it.
        outputs: shapes by name; sizes that are not fixed are not whole numbers.
        types: of the outputs, as ONNX Runtime writes them: ``tensor(float)``.
        dtype: what it takes; whole numbers are rounded.
        batch: how many inputs the graph takes at once, where that is fixed; others are run in parts of that size.
        channels_last: whether it takes (N, H, W, C), as Keras' graphs do; it is still given (N, C, H, W).
        input_hw: its pictures' height and width, where they are fixed.
        channels: of its pictures; 3 where they are not fixed.
        takes: what it says of them.

    Raises:
        ModelError: not a readable graph, or its input is not one batch of pictures.
    """

    def __init__(
        self,
        content: bytes,
        name: str,
        *,
        providers: Sequence[str] | None = None,
        threads: int | None = None,
        folder: Path | None = None,
        beside: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.providers, self.threads, self.folder = providers, threads, folder
        self._session = open_session(content, name, providers=providers, threads=threads, folder=folder)
        self._turn = threading.Lock() if _ONE_AT_A_TIME & set(self._session.get_providers()) else nullcontext()
        self.metadata: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
        self.outputs: dict[str, list[Any]] = {output.name: output.shape for output in self._session.get_outputs()}
        self.types: dict[str, str] = {output.name: output.type for output in self._session.get_outputs()}
        inputs = [each for each in self._session.get_inputs() if each.name not in beside]
        if len(inputs) != 1:
            raise ModelError(f"{name}: expected one input of pictures, got {', '.join(each.name for each in inputs)}")
        if inputs[0].type not in _TYPES:
            raise ModelError(f"{name}: its input is {inputs[0].type}; expected pictures in one of {', '.join(_TYPES)}")
        if len(inputs[0].shape) < 3:
            raise ModelError(
                f"{name}: its input {inputs[0].name} says no shape of pictures but {inputs[0].shape}; expected "
                "(N, C, H, W) or (N, H, W, C): export it again with its shape"
            )
        self.input, self.shape = inputs[0].name, tuple(inputs[0].shape)
        self.dtype = _TYPES[inputs[0].type]
        layout = input_layout(inputs[0].shape)
        self.batch, self.channels, self.channels_last = layout.batch, layout.channels, layout.channels_last
        self.input_hw = layout.fixed_hw
        self.takes = layout.pictures(np.issubdtype(self.dtype, np.integer))

    def other(self, content: bytes, beside: Sequence[str] = ()) -> OnnxSession:
        """Another graph, on the same device, with its data in the same folder; see the class."""
        return OnnxSession(
            content, self.name, providers=self.providers, threads=self.threads, folder=self.folder, beside=beside
        )

    def blank(self) -> NDArray[np.float32]:
        """Black inputs of a shape that the graph takes, at 224 pixels where it takes any; as few as it takes."""
        size_hw = (self.takes.height or 224, self.takes.width or 224)
        return np.zeros((self.batch or 1, self.channels, *size_hw), np.float32)

    def run(
        self, outputs: Sequence[str], batch: NDArray[Any], extra: Mapping[str, NDArray[Any]] | None = None
    ) -> list[NDArray[Any]]:
        """The outputs of a batch (N, C, *space); floating-point ones as float32.

        Args:
            outputs: their names.
            batch: the inputs, in any floating-point type.
            extra: other inputs, the same for all.

        Raises:
            ModelError: the graph failed on this input.
        """
        inputs = np.asarray(batch)
        if self.takes.whole_numbers:
            inputs = np.clip(np.rint(inputs), 0, 255)
        inputs = inputs.astype(self.dtype, copy=False)
        if self.batch is None or len(inputs) == self.batch:
            return self._run(outputs, inputs, extra)
        parts = []
        for first in range(0, len(inputs), self.batch):
            part = inputs[first : first + self.batch]
            filled = np.concatenate((part, part[-1:].repeat(self.batch - len(part), 0)))  # the last part may be short
            parts.append([each[: len(part)] for each in self._run(outputs, filled, extra)])
        return [np.concatenate(column) for column in zip(*parts, strict=True)]

    def _run(
        self, outputs: Sequence[str], inputs: NDArray[Any], extra: Mapping[str, NDArray[Any]] | None
    ) -> list[NDArray[Any]]:
        laid = np.ascontiguousarray(np.moveaxis(inputs, 1, -1) if self.channels_last else inputs)
        try:
            with self._turn:
                answers = self._session.run(list(outputs), {self.input: laid, **(extra or {})})
        except Exception as error:  # as above
            raise ModelError(f"{self.name}: failed on input {inputs.shape} ({first_line(error)})") from error
        return [each.astype(np.float32) if each.dtype.kind == "f" else each for each in map(np.asarray, answers)]
