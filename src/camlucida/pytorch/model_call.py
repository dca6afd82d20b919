"""How a network is called: where the pictures go among its arguments, what goes with them, how many at once."""

from __future__ import annotations

import inspect
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, handle_torch_function, has_torch_function
from torch.utils._pytree import tree_map_only

from camlucida.errors import CamlucidaError, ModelError, first_line
from camlucida.pytorch.tape import tensors_in
from camlucida.targets import Expected

_hooking = threading.RLock()
_PICTURE_NAMES = ("pixel_values", "images", "image", "pixels")


@dataclass(frozen=True)
class Arguments:
    """What a network takes beside the pictures.

    Tensors (and arrays) with a row for each picture go with their pictures; everything else is passed on as it is.

    Attributes:
        inputs: further positional arguments.
        keywords: further keyword arguments.
        pictures: where the pictures go: a keyword, or a place among the positional arguments. None: the keyword
            ``pixel_values`` or the like where the network has one elsewhere than at the front, else the front.
    """

    inputs: tuple[Any, ...] = ()
    keywords: Mapping[str, Any] = field(default_factory=dict)
    pictures: str | int | None = None

    @property
    def more(self) -> bool:
        """Whether there is anything beside the pictures."""
        return bool(self.inputs or self.keywords)

    def placed(self, change: Callable[[Tensor], Tensor]) -> Arguments:
        """With every tensor among the values changed."""
        inputs, keywords = tree_map_only(Tensor, change, (self.inputs, dict(self.keywords)))
        return replace(self, inputs=inputs, keywords=keywords)

    def rows(self, rows: Tensor | Sequence[int], count: int) -> Arguments:
        """The values that go with these pictures of the ``count`` that they are for."""
        index = torch.as_tensor(rows)

        def of_rows(tensor: Tensor) -> Tensor:
            if tensor.ndim == 0 or tensor.shape[0] != count:
                return tensor
            return tensor.index_select(0, index.to(tensor.device))

        return self.placed(of_rows) if self.more else self

    def by_picture(self, count: int) -> bool:
        """Whether anything goes with its own picture of ``count``."""
        tensors = tensors_in((self.inputs, dict(self.keywords)))
        return any(tensor.ndim > 0 and tensor.shape[0] == count for tensor in tensors)

    @property
    def signature(self) -> tuple[Any, ...]:
        """What decides whether another call takes the same way."""
        shapes = ((tuple(tensor.shape[1:]), tensor.dtype) for tensor in tensors_in((self.inputs, dict(self.keywords))))
        return (*shapes, len(self.inputs), *sorted(self.keywords), self.pictures)


@dataclass(frozen=True, eq=False)
class ModelCall:
    """A network as a function of pictures (N, C, *space) alone.

    Attributes:
        module: what runs.
        arguments: what it takes beside the pictures, for ``count`` of them.
        count: how many pictures the arguments are for; other numbers are run with those of the first where there is
            one, or as ``rows`` says.
        size: it runs so many pictures at once, never more or fewer; None: any number.
        expected: what is known of the logits among what it returns.
    """

    module: nn.Module
    arguments: Arguments = field(default_factory=Arguments)
    count: int = 0
    size: int | None = None
    expected: Expected = field(default_factory=Expected)

    def __call__(self, pictures: Tensor) -> Any:
        """What the network returns. No compiler, hook or mode of ours is left behind."""
        positional, keywords = self.for_many(len(pictures))._place(pictures)
        # Copied where a tape sees it, so that it can be cut at what the other arguments bring too.
        positional, keywords = tree_map_only(
            Tensor, lambda tensor: tensor if tensor is pictures else tensor.clone(), (positional, keywords)
        )
        with _eager(), _scripts_seen(self.module), _normal_weights(self.module):
            if getattr(self.module, "_compiled_call_impl", None) is not None:
                return self.module._call_impl(*positional, **keywords)  # type: ignore[no-untyped-call]
            return self.module(*positional, **keywords)

    def sources(self, pictures: Tensor) -> list[Tensor]:
        """The tensors that a pass of these pictures begins with."""
        return [pictures, *tensors_in((self.arguments.inputs, dict(self.arguments.keywords)))]

    def for_pictures(self, rows: Tensor | Sequence[int]) -> ModelCall:
        """The call for these of the pictures, by number; with repetition."""
        if not self.arguments.more:
            return self
        return replace(self, arguments=self.arguments.rows(rows, self.count), count=len(rows))

    def for_many(self, number: int) -> ModelCall:
        """The call for so many other pictures.

        Raises:
            ModelError: it is not known which values go with them.
        """
        if number == self.count or not self.arguments.by_picture(self.count):
            return self
        if self.count == 1:
            return self.for_pictures([0] * number)
        raise ModelError(
            f"the method runs the model on {number} changed pictures, and the values that go with the pictures are for "
            f"{self.count}; explain one picture at a time"
        )

    def portions(self, pictures: Tensor, most: int = 0) -> Iterator[tuple[ModelCall, Tensor, int]]:
        """The pictures in portions that can run, with the call for each, and how many of them count.

        Where only a fixed number runs, the last portion is filled up with its last picture.
        """
        whole = self.for_many(len(pictures))
        for rows, count in portions(len(pictures), self.size or most or len(pictures), filled=self.size is not None):
            yield whole.for_pictures(rows), pictures if len(rows) == len(pictures) else pictures[rows], count

    def _place(self, pictures: Tensor) -> tuple[tuple[Any, ...], dict[str, Any]]:
        where, inputs, keywords = self.arguments.pictures, self.arguments.inputs, dict(self.arguments.keywords)
        if where is None:
            where = _pictures_of(self.module) if self.arguments.more else 0
        if isinstance(where, str):
            return inputs, {**keywords, where: pictures}
        return (*inputs[:where], pictures, *inputs[where:]), keywords


def portions(total: int, size: int, *, filled: bool) -> Iterator[tuple[list[int], int]]:
    """The numbers of ``total`` pictures, at most ``size`` at once, and how many of them count.

    The last portion is filled up with its last picture if ``filled``.

    Example:
        >>> list(portions(3, 2, filled=True))
        [([0, 1], 2), ([2, 2], 1)]
    """
    for first in range(0, total, size):
        rows = list(range(first, min(first + size, total)))
        yield rows + [rows[-1]] * (size - len(rows) if filled else 0), len(rows)


def _pictures_of(module: nn.Module) -> str | int:
    """The name of the argument that takes the pictures, where it is not the first."""
    try:
        names = list(inspect.signature(module.forward).parameters)
    except (TypeError, ValueError):
        return 0
    return next((name for name in _PICTURE_NAMES if name in names[1:]), 0)


@contextmanager
def blaming_the_model(module: nn.Module, batch: Tensor) -> Iterator[None]:
    """Whatever a model raises becomes a ModelError that says for which input, in one line."""
    try:
        yield
    except CamlucidaError:
        raise
    except Exception as error:
        missing = re.search(r"missing \d+ required [\w-]+ arguments?: (.*)", str(error))
        if isinstance(error, TypeError) and missing:
            raise ModelError(
                f"the model takes several arguments, and {missing[1]} was not given: give what goes with the pictures "
                "as inputs=(…) or forward_kwargs={…}, and where the pictures do not come first, explain_input='their "
                f"argument'; its forward is {_signature(module)}"
            ) from error
        why = f"{type(error).__name__}: {first_line(error)}"
        if re.search(r"NoneType|have to specify", why):
            why += f"; does {_signature(module)} need more than pictures? give it by inputs=(…) or forward_kwargs={{…}}"
        raise ModelError(f"the model failed on input {tuple(batch.shape)}: {why}") from error


def _signature(module: nn.Module) -> str:
    try:
        return f"forward({', '.join(inspect.signature(module.forward).parameters)})"
    except (TypeError, ValueError):
        return "not to be read"


# --- what would hide calls from a tape --------------------------------------------------------------------------------


def _eager() -> AbstractContextManager[Any]:
    """Compiled parts run as written, or the compiler would compile what watches them."""
    stance = getattr(torch.compiler, "set_stance", None)
    return stance("force_eager") if stance is not None and "torch._dynamo" in sys.modules else nullcontext()


_known = threading.local()


def scripted(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """A call of a TorchScript module as one torch function, so that a tape sees it; what is known is not run again."""
    output = _known.__dict__.pop("output", None)
    return module(*args, **kwargs) if output is None else output


@contextmanager
def _scripts_seen(module: nn.Module) -> Iterator[None]:
    """The calls of TorchScript modules inside are shown to the modes that watch this thread's torch calls."""
    scripts = list(_scripts_in(module))
    # One pass at a time: hooks that come and go while another thread's call goes through them would break that call.
    with _hooking if scripts else nullcontext(), ExitStack() as stack:
        for script in scripts:
            show = _shown_by(threading.get_ident())
            hook = nn.Module.register_forward_hook(script, show, with_kwargs=True)  # their own method refuses
            stack.callback(hook.remove)
        yield


def _scripts_in(module: nn.Module) -> Iterator[nn.Module]:
    if isinstance(module, torch.jit.ScriptModule):
        yield module
        return
    for child in module.children():
        yield from _scripts_in(child)


def _shown_by(thread: int) -> Callable[..., Any]:
    def show(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        if threading.get_ident() != thread or not has_torch_function(args):
            return None
        _known.output = output
        try:
            return handle_torch_function(scripted, args, module, *args, **kwargs)
        finally:
            _known.__dict__.pop("output", None)

    return show


def _normal_weights(module: nn.Module) -> AbstractContextManager[Any]:
    """Weights made under ``torch.inference_mode`` are replaced by copies, through which gradients can pass."""
    frozen = [tensor for tensor in (*module.parameters(), *module.buffers()) if tensor.is_inference()]
    return _Copies() if frozen and torch.is_grad_enabled() else nullcontext()


class _Copies(TorchFunctionMode):
    """Inference tensors among the arguments of calls are replaced by copies."""

    def __init__(self) -> None:
        super().__init__()
        self._copies: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return func(*tree_map_only(Tensor, self._copy, args), **tree_map_only(Tensor, self._copy, kwargs or {}))

    def _copy(self, tensor: Tensor) -> Tensor:
        if not tensor.is_inference():
            return tensor
        if id(tensor) not in self._copies:
            self._copies[id(tensor)] = tensor, tensor.detach().clone()
        return self._copies[id(tensor)][1]
