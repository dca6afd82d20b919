"""A tape of the torch calls of one forward pass, and what can be read off it.

Python-level calls are seen through ``torch.overrides.TorchFunctionMode``, which is local to the thread and leaves
nothing on the model. A value is named by its tensor's identity and version, so that in-place operations make new
values of the same tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

Value = tuple[int, int]
"""A tensor's value: (identity, version)."""

_VALUE_FREE = {"zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "new_zeros", "new_ones",
               "new_empty", "new_full", "new_tensor", "detach_", "size", "dim"}  # fmt: skip
_FIRST_ONLY = {"expand_as", "view_as", "reshape_as", "type_as"}


class Autocast(NamedTuple):
    """Whether calls on a kind of device are cast to a lower precision by ``torch.autocast``, and to which."""

    device: str
    enabled: bool
    dtype: torch.dtype

    @classmethod
    def now(cls, device: str) -> Autocast:
        """The state that holds for calls made here."""
        enabled = torch.is_autocast_enabled(device)
        return cls(device, enabled, torch.get_autocast_dtype(device) if enabled else torch.float32)

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A call in this state, whatever state holds here."""
        if Autocast.now(self.device) == self:
            return func(*args, **kwargs)
        with torch.autocast(self.device, self.dtype if self.enabled else None, self.enabled, cache_enabled=False):
            return func(*args, **kwargs)


class Place(NamedTuple):
    """Where a tensor is made in a forward pass: the ``output``-th tensor of the ``nth`` call of ``func``."""

    func: Callable[..., Any]
    nth: int
    output: int


@dataclass(frozen=True)
class TapeStep:
    """One recorded call: ``func(*args, **kwargs)`` made ``outputs`` from ``inputs``.

    ``tensors`` carry the outputs: first those in the call's result, then the arguments that it changed in place
    without returning them, whose positions among the arguments' tensors ``changed`` lists. ``autocast`` is the state
    of ``torch.autocast`` it was called in.
    """

    func: Callable[..., Any]
    nth: int
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    tensors: tuple[Tensor, ...]
    changed: tuple[int, ...]
    autocast: Autocast | None = None

    @property
    def name(self) -> str:
        """The call's bare name, ``layer_norm`` say."""
        return name_of(self.func)


def name_of(func: Callable[..., Any]) -> str:
    """The bare name of a torch function; of a property's getter, the property's."""
    name = getattr(func, "__name__", "?")
    owner = getattr(func, "__self__", None)
    return str(getattr(owner, "__name__", name)) if name == "__get__" else str(name)


def tensors_in(nested: object) -> Iterator[Tensor]:
    """Every tensor in nested tuples, lists and mappings (Hugging Face outputs included), in order."""
    if isinstance(nested, Tensor):
        yield nested
    elif isinstance(nested, dict) or hasattr(nested, "to_tuple"):
        for part in nested.values() if hasattr(nested, "values") else nested.to_tuple():
            yield from tensors_in(part)
    elif isinstance(nested, list | tuple):
        for part in nested:
            yield from tensors_in(part)


def value_of(tensor: Tensor) -> Value:
    """The name of a tensor's present value."""
    return id(tensor), 0 if tensor.is_inference() else tensor._version


def replaced(nested: Any, old_to_new: dict[int, Tensor]) -> Any:
    """``nested`` with tensors swapped by identity, nested containers rebuilt."""
    return tree_map_only(Tensor, lambda tensor: old_to_new.get(id(tensor), tensor), nested)


class CallCounter:
    """Counts the calls of each function in one pass, so that a ``Place`` is recognized when its turn has come."""

    def __init__(self) -> None:
        self._calls: dict[Callable[..., Any], int] = {}

    def count(self, func: Callable[..., Any]) -> int:
        """How often it was called before this call."""
        nth = self._calls.get(func, 0)
        self._calls[func] = nth + 1
        return nth


class Tape(TorchFunctionMode):
    """Records the calls that depend on given tensors; optionally cuts the pass at some of the values on its way.

    Args:
        sources: the tensors whose dependents are recorded (the network's input).
        cuts: the values to cut at: when the call at such a place returns, the tape keeps its tensor among the
            ``originals``, and what follows sees a copy, among ``copies``. Recording starts at the first of them.
    """

    def __init__(self, sources: Sequence[Tensor], cuts: Sequence[Place] = ()) -> None:
        super().__init__()
        self.steps: list[TapeStep] = []
        self.alive: list[Tensor] = list(sources)  # keeps identities unique
        self.dependent: set[Value] = set() if cuts else {value_of(source) for source in sources}
        self.cuts = tuple(cuts)
        self.originals: dict[Place, Tensor] = {}
        self.copies: dict[Place, Tensor] = {}
        self._swaps: dict[int, Tensor] = {}
        self._calls = CallCounter()

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run the call, keep it if it depends on the sources or on a cut, cut if its turn has come."""
        kwargs = kwargs or {}
        nth = self._calls.count(func)
        due = [place for place in self.cuts if place.func is func and place.nth == nth]
        if self.cuts and not self.copies and not due:
            return func(*args, **kwargs)
        if self._swaps:
            args, kwargs = replaced(args, self._swaps), replaced(kwargs, self._swaps)
        arguments = list(tensors_in((args, kwargs)))
        before = [value_of(tensor) for tensor in arguments]
        result = func(*args, **kwargs)
        outputs = [] if isinstance(result, torch.Size) else list(tensors_in(result))
        returned = set(map(id, outputs))
        changed = tuple(i for i, t in enumerate(arguments) if value_of(t) != before[i] and id(t) not in returned)
        outputs += [arguments[i] for i in changed]
        name = name_of(func)
        read = before[:1] if name in _FIRST_ONLY else [] if name in _VALUE_FREE else before
        inputs = tuple(value for value in read if value in self.dependent)
        if inputs and outputs:
            values = tuple(value_of(tensor) for tensor in outputs)
            self.dependent.update(values)
            self.alive += outputs
            own = tuple(list(arg) if isinstance(arg, list) else arg for arg in args)  # the network may extend its list
            autocast = Autocast.now(arguments[0].device.type)
            self.steps.append(TapeStep(func, nth, own, kwargs, inputs, values, tuple(outputs), changed, autocast))
        return self._cut(due, result, outputs) if due else result

    def _cut(self, due: Sequence[Place], result: Any, outputs: list[Tensor]) -> Any:
        for place in due:
            if place.output >= len(outputs):
                continue
            original = outputs[place.output]
            copy = original.detach().clone()  # what changes it in place leaves the original alone
            self.originals[place], self.copies[place] = original, copy
            self._swaps[id(original)] = copy
            self.dependent.add(value_of(copy))
            self.alive += [original, copy]
        return replaced(result, self._swaps)


def replay(
    steps: Sequence[TapeStep],
    tensors: Mapping[int, Tensor],
    *,
    dtype: torch.dtype | None = None,
    instead: Callable[[TapeStep, tuple[Any, ...], dict[str, Any]], Any] | None = None,
) -> dict[int, Tensor]:
    """Run recorded steps again on other tensors.

    Args:
        steps: the steps, in order.
        tensors: new ones by the identity of the recorded ones.
        dtype: floating-point constants (weights) are cast to this, if given; autocast is off then.
        instead: may compute a step itself; returns NotImplemented where it does not.

    Returns:
        The tensors made, by the identity of the recorded ones they stand for.
    """
    now = dict(tensors)

    def renew(tensor: Tensor) -> Tensor:
        if id(tensor) in now:
            return now[id(tensor)]
        if dtype is not None and tensor.is_floating_point():
            tensor = tensor.to(dtype)
        return tensor.clone() if tensor.is_inference() else tensor  # inference tensors have no gradients behind them

    for step in steps:
        args, kwargs = tree_map_only(Tensor, renew, step.args), tree_map_only(Tensor, renew, step.kwargs)
        result = NotImplemented if instead is None else instead(step, args, kwargs)
        if result is NotImplemented:
            autocast = step.autocast
            if autocast is not None and dtype is not None:
                autocast = Autocast(autocast.device, False, torch.float32)
            result = step.func(*args, **kwargs) if autocast is None else autocast.call(step.func, args, kwargs)
        outputs = list(tensors_in(result))
        if step.changed:
            arguments = list(tensors_in((args, kwargs)))
            outputs += [arguments[i] for i in step.changed]
        now.update((id(old), new) for old, new in zip(step.tensors, outputs, strict=True))
    return now


def on_the_way(steps: Sequence[TapeStep], end: Value) -> list[TapeStep]:
    """The steps that ``end`` depends on, in order."""
    wanted = {end}
    kept = []
    for step in reversed(steps):
        if any(value in wanted for value in step.outputs):
            wanted.update(step.inputs)
            kept.append(step)
    return kept[::-1]


def frontiers(steps: Sequence[TapeStep], end: Value) -> Iterator[tuple[int, tuple[Value, ...]]]:
    """After each step, the values made so far that later steps on the way to ``end`` still read.

    Args:
        steps: as ``on_the_way`` returns them.
        end: the value that the steps lead to.

    Yields:
        (index of the step, values). Steps before which a source is still to be read directly are left out.
    """
    last_use: dict[Value, int] = {end: len(steps)}
    for index, step in enumerate(steps):
        last_use.update(dict.fromkeys(step.inputs, index))
    made = {value for step in steps for value in step.outputs}
    horizon = max((index for value, index in last_use.items() if value not in made), default=-1)
    still_read: dict[Value, int] = {}
    for index, step in enumerate(steps):
        still_read.update((value, last_use[value]) for value in step.outputs if value in last_use)
        still_read = {value: use for value, use in still_read.items() if use > index}
        if index >= horizon:
            yield index, tuple(still_read)


def bottlenecks(steps: Sequence[TapeStep], end: Value) -> list[tuple[int, int]]:
    """The values through which every path from the sources to ``end`` leads, first to last.

    Returns:
        Pairs (index of the step that makes the value, index of its output).
    """
    return [
        (index, steps[index].outputs.index(values[0]))
        for index, values in frontiers(steps, end)
        if len(values) == 1 and values[0] in steps[index].outputs
    ]
