"""What methods do to the calls of a pass while it runs: modes local to the thread, that leave nothing on the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from camlucida.pytorch.explicit_attention import ExplicitAttention
from camlucida.pytorch.grid import candidates
from camlucida.pytorch.tape import name_of, tensors_in

Call = Callable[..., Any]


class GuidedReLU(TorchFunctionMode):
    """Only positive gradients pass back through each ReLU.

    The gate is a hook on the ReLU's result, which dies with the pass: there the whole gradient arrives, also behind an
    in-place call, before the ReLU's own derivative is applied.

    Attributes:
        seen: how many ReLUs were called.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def __torch_function__(self, func: Call, types: Sequence[type], args: Any = (), kwargs: Any = None) -> Any:
        """Run the call, and gate its result if it is a ReLU's."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if _is_relu(name_of(func), args, kwargs):
            self.seen += 1
            if result.requires_grad:
                result.register_hook(_positive)
        return result


def _positive(gradient: Tensor) -> Tensor:
    return gradient.clamp_min(0)


def _is_relu(name: str, args: Any, kwargs: Any) -> bool:
    """ReLU and ReLU6, by whatever call."""
    if name in ("relu", "relu_", "relu6"):
        return True
    first = args[1] if len(args) > 1 else kwargs.get("min_val", kwargs.get("min", kwargs.get("threshold")))
    if name in ("hardtanh", "hardtanh_", "clamp_min", "clamp_min_", "threshold", "_threshold", "threshold_"):
        return isinstance(first, int | float) and first == 0
    return name in ("clamp", "clamp_", "clip") and isinstance(first, int | float) and first == 0


class TwiceDifferentiable(ExplicitAttention):
    """Attention written out, hardsigmoid as a clamp: their kernels have no second derivative."""

    def __torch_function__(self, func: Call, types: Sequence[type], args: Any = (), kwargs: Any = None) -> Any:
        """Run the call, written out where its kernel has one derivative only."""
        if name_of(func) == "hardsigmoid":
            return (args[0] + 3).clamp(0, 6) / 6
        return super().__torch_function__(func, types, args, kwargs)


class Biases(TorchFunctionMode):
    """Collects bias x gradient of every call that depends on an input, as backward passes go by.

    A call y = f(z) has the bias f(z) - J z, what is left of it beside its derivative J: an affine layer's own bias, and
    the implicit one of other functions. Calls without (ReLU, pooling, reshapes) or without a rule are left alone.

    Args:
        leaf: the input, (B, C, *space).
    """

    def __init__(self, leaf: Tensor) -> None:
        super().__init__()
        self._batch, self._space = leaf.shape[0], leaf.shape[2:]
        self._alive = [leaf]  # keeps identities unique
        self._dependent = {id(leaf)}
        self._parts: list[Tensor] = []
        self._none = leaf.detach().new_zeros(len(leaf))
        self._rest = self._none

    def take(self) -> tuple[list[Tensor], Tensor]:
        """What the last backward pass brought: (B, C, *grid) of each layer with places, and the others' sum, (B,)."""
        parts, rest = self._parts, self._rest
        self._parts, self._rest = [], self._none
        return parts, rest

    def __torch_function__(self, func: Call, types: Sequence[type], args: Any = (), kwargs: Any = None) -> Any:
        """Run the call; where it depends on the input, hook its bias to the gradient of its result."""
        kwargs = kwargs or {}
        if not any(id(tensor) in self._dependent for tensor in tensors_in((args, kwargs))):
            return func(*args, **kwargs)
        name = name_of(func)
        with torch.no_grad():
            bias, axis = self._bias_of(name, func, args, kwargs)
        result = func(*args, **kwargs)
        outputs = [] if isinstance(result, torch.Size) else list(tensors_in(result))
        if name == "__setitem__":
            outputs = [args[0]]
        self._alive += outputs
        self._dependent.update(map(id, outputs))
        if bias is not None and isinstance(result, Tensor) and result.requires_grad:
            result.register_hook(partial(self._collect, bias, axis))  # type: ignore[no-untyped-call]
        return result

    def _bias_of(self, name: str, func: Call, args: Any, kwargs: Any) -> tuple[Tensor | None, int | None]:
        """The bias of a call, to be broadcast with its result, and the result's channel axis if the call has one."""
        if name in _WEIGHTED:
            bias = args[2] if len(args) > 2 else kwargs.get("bias")
            if bias is None or name == "linear":
                return bias, -1
            return bias.reshape(-1, *[1] * len(self._space)), 1
        if name == "batch_norm" and func is torch.nn.functional.batch_norm:
            shift = _shift_of_batch_norm(*args, **kwargs)
            return None if shift is None else shift.reshape(-1, *[1] * len(self._space)), 1
        if name in _ACTIVATIONS:
            return _implicit(func, args, kwargs), None
        if name in _SUMS or name in _DIFFERENCES:
            return self._added(name, args, kwargs), None
        if name in _PRODUCTS and all(isinstance(a, Tensor) and id(a) in self._dependent for a in args[:2]):
            return -(args[0].detach() * args[1].detach()), None
        return None, None

    def _added(self, name: str, args: Any, kwargs: Any) -> Tensor | None:
        """The constant in a sum or difference."""
        where = [i for i, term in enumerate(args[:2]) if not (isinstance(term, Tensor) and id(term) in self._dependent)]
        if len(args) < 2 or len(where) != 1:
            return None
        constant = args[where[0]]
        if not isinstance(constant, Tensor):
            constant = torch.tensor(float(constant), dtype=torch.float64)
        sign = -1 if name in _DIFFERENCES and where[0] == 1 and name != "__rsub__" else 1
        return constant.mul(sign * kwargs.get("alpha", 1))

    def _collect(self, bias: Tensor, axis: int | None, gradient: Tensor) -> None:
        product = gradient.detach() * bias.detach().to(gradient)
        count = product.shape[0] if product.ndim else 0
        channels = None if axis is None else axis % product.ndim
        layouts = candidates(product.shape, self._batch, self._space)
        layout = next((layout for layout in layouts if channels in (None, layout.channel_axis)), None)
        if layout is not None:
            self._parts.append(layout.on_grid(product))
            product = layout.prefix_tokens(product)
        elif not count or count % self._batch:
            return  # no batch axis: nothing says whose it is
        self._rest = self._rest + product.reshape(self._batch, -1).sum(1)


_WEIGHTED = {"linear", *(f"conv{kind}{n}d" for kind in ("", "_transpose") for n in (1, 2, 3))}
_ACTIVATIONS = {"gelu", "silu", "silu_", "sigmoid", "sigmoid_", "tanh", "tanh_", "hardswish", "hardsigmoid", "hardtanh",
                "hardtanh_", "relu6", "elu", "elu_", "celu", "selu", "softplus", "mish", "softsign", "clamp",
                "clamp_"}  # fmt: skip
_SUMS = {"add", "add_", "__add__", "__radd__", "__iadd__"}
_DIFFERENCES = {"sub", "sub_", "__sub__", "__rsub__", "__isub__"}
_PRODUCTS = {"mul", "mul_", "multiply", "__mul__", "__rmul__", "__imul__"}


def _shift_of_batch_norm(
    _: Tensor, running_mean: Tensor | None, running_var: Tensor | None, weight: Tensor | None = None,
    bias: Tensor | None = None, training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
) -> Tensor | None:  # fmt: skip
    """β - μ γ / σ; β alone where the statistics are the batch's own."""
    if training or running_mean is None or running_var is None:
        return bias
    scale = (running_var + eps).rsqrt() * (1 if weight is None else weight)
    return -running_mean * scale + (0 if bias is None else bias)


def _implicit(func: Call, args: Any, kwargs: Any) -> Tensor:
    """f(z) - f'(z) z of a function that acts on each element of its first argument."""
    at = args[0].detach().clone().requires_grad_()
    with torch.enable_grad():
        value = func(at.clone(), *args[1:], **kwargs)
        (slope,) = torch.autograd.grad(value.sum(), at)
    left: Tensor = value.detach() - slope * at.detach()
    return left
