"""Kinds D10 to D14: networks that are hard to run, to record or to ask."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from nets_branches import ANY, BEST, K, W, conv, gap, lin
from tapped import Net
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from verdicts import Entry

ENTRIES: list[Entry] = []
EITHER = frozenset({"exact", "refused"})
REFUSED = frozenset({"refused"})
simple = lambda: {"a": conv(), "h": lin()}  # noqa: E731


def add(kind: str, name: str, function: Any, parts: Callable[[], dict[str, Any]] = simple,
        wanted: frozenset[str] = BEST, **more: Any) -> None:  # fmt: skip
    ENTRIES.append(Entry(name, kind, lambda: Net(function, **parts()), wanted=wanted, **more))


def plain(n: Any, x: Tensor) -> Tensor:
    logits: Tensor = n.h(gap(n.tap(n.a(x))))
    return logits


# D10 -----------------------------------------------------------------------------------------------------------------
def _fixed_second(n: Any, x: Tensor) -> Tensor:
    return n.h(torch.cat((gap(n.tap(n.a(x))), n.meta), 1))


def _only_one(n: Any, x: Tensor) -> Tensor:
    if len(x) != 1:
        raise ValueError("expected a batch of 1")
    return plain(n, x)


def _fixed_state(n: Any, x: Tensor) -> Tensor:
    columns = n.tap(n.a(x)).mean(2).transpose(1, 2)
    return n.h(n.r(columns, n.state)[0][:, -1])


def _exactly_four(n: Any, x: Tensor) -> Tensor:
    return n.h(n.tap(n.a(x)).view(4, W, -1).mean(2))


def _first_of_batch(n: Any, x: Tensor) -> Tensor:
    return n.h(n.tap(n.a(x))[0].mean((1, 2)))[None]


def _fixed_mask(n: Any, x: Tensor) -> Tensor:
    f = n.a(x)
    return n.h(gap(n.tap(torch.addcmul(torch.zeros_like(n.mask), f, n.mask))))


one_by_one = {"single": True, "shape": (3, 3, 32, 32)}
add("D10", "fixed_second_input", _fixed_second, lambda: {"a": conv(), "meta": torch.randn(1, 5), "h": lin(W + 5)},
    **one_by_one)  # fmt: skip
add("D10", "view_1", lambda n, x: n.h(gap(n.tap(n.a(x))).view(1, -1)), **one_by_one)
add("D10", "batch_of_one_demanded", _only_one, **one_by_one)
add("D10", "fixed_recurrent_state", _fixed_state,
    lambda: {**simple(), "r": nn.GRU(W, W, batch_first=True), "state": torch.zeros(1, 1, W)},
    frozenset({"exact", "honest", "refused"}), **one_by_one)  # fmt: skip
add("D10", "squeezed_and_unsqueezed", lambda n, x: n.h(n.tap(n.a(x)).squeeze(0).mean((1, 2)))[None], **one_by_one)
add("D10", "exactly_four", _exactly_four)
add("D10", "only_the_first_row_read", _first_of_batch, **one_by_one)
add("D10", "batch_size_in_a_constant", lambda n, x: n.h(n.tap(n.a(x)).reshape(1, W, 64).mean(2)), **one_by_one)
add("D10", "mask_of_one_row_in_place", _fixed_mask, lambda: {**simple(), "mask": torch.rand(1, W, 8, 8)}, **one_by_one)
add("D10", "flattened_to_one_row", lambda n, x: n.h(torch.flatten(gap(n.tap(n.a(x))))).unsqueeze(0), **one_by_one)
add("D10", "logits_without_a_batch", lambda n, x: n.scored(n.h(gap(n.tap(n.a(x))))).squeeze(0), simple, EITHER,
    single=True, shape=(3, 3, 32, 32))  # fmt: skip


# D11 -----------------------------------------------------------------------------------------------------------------
def _autocast(n: Any, x: Tensor) -> Tensor:
    if n.marks is not None:
        return plain(n, x)
    with torch.autocast("cpu", torch.bfloat16):
        return plain(n, x)


def _autocast_float(n: Any, x: Tensor) -> Tensor:
    return _autocast(n, x).to(x.dtype)


def _autocast_head(n: Any, x: Tensor) -> Tensor:
    p = gap(n.tap(n.a(x)))
    if n.marks is not None:
        return n.h(p)
    with torch.autocast("cpu", torch.bfloat16):
        return n.h(p)


def _autocast_body(n: Any, x: Tensor) -> Tensor:
    if n.marks is not None:
        return plain(n, x)
    with torch.autocast("cpu", torch.bfloat16):
        f = n.a(x)
    return n.h(gap(f.float()))


def _autocast_but_head(n: Any, x: Tensor) -> Tensor:
    if n.marks is not None:
        return plain(n, x)
    with torch.autocast("cpu", torch.bfloat16):
        p = gap(n.a(x))
        with torch.autocast("cpu", enabled=False):
            return n.h(p.float())


def _bfloat_head(n: Any, x: Tensor) -> Tensor:
    if n.marks is not None:
        return plain(n, x)
    p = gap(n.a(x)).bfloat16()
    return F.linear(p, n.h.weight.bfloat16(), n.h.bias.bfloat16()).float()


def _double_head(n: Any, x: Tensor) -> Tensor:
    p = gap(n.tap(n.a(x))).double()
    return F.linear(p, n.h.weight.double(), n.h.bias.double()).to(x.dtype)


def _grad_switched(n: Any, x: Tensor) -> Tensor:
    with torch.set_grad_enabled(False):
        f = n.a(x)
    with torch.enable_grad():
        return n.h(gap(n.tap(f)))


coarse = {"tolerance": 3e-2}
add("D11", "autocast", _autocast, **coarse)
add("D11", "autocast_to_float", _autocast_float, **coarse)
add("D11", "autocast_head", _autocast_head, **coarse)
add("D11", "autocast_backbone", _autocast_body, **coarse)
add("D11", "autocast_but_the_head", _autocast_but_head, **coarse)
add("D11", "bfloat16_head", _bfloat_head, **coarse)
add("D11", "float64_head", _double_head)
add("D11", "grad_mode_switched", _grad_switched)
add("D11", "autocast_head_in_a_sequence", _autocast, lambda: {"a": conv(), "h": nn.Sequential(nn.Dropout(), lin())},
    **coarse)  # fmt: skip


# D12 -----------------------------------------------------------------------------------------------------------------
def _two_pictures(n: Any, x: Tensor, other: Tensor) -> Tensor:
    return n.h(torch.cat((gap(n.tap(n.a(x))), n.aside(gap(n.a(other)))), 1))


def _with_metadata(n: Any, x: Tensor, meta: Tensor) -> Tensor:
    return n.h(torch.cat((gap(n.tap(n.a(x))), n.aside(meta)), 1))


def _pixels_and_text(n: Any, pixel_values: Tensor, input_ids: Tensor) -> Tensor:
    return n.h(gap(n.tap(n.a(pixel_values)))) + n.aside(n.e(input_ids).mean(1))


def _siamese(n: Any, x: Tensor, other: Tensor) -> Tensor:
    return n.h((gap(n.tap(n.a(x))) - n.aside(gap(n.a(other)))).abs())


def _optional(n: Any, x: Tensor, labels: Tensor | None = None) -> Any:
    y = plain(n, x)
    return y if labels is None else (F.cross_entropy(y, labels), y)


many = frozenset({"exact", "honest", "refused"})
say = ("argument", "inputs", "several")


def other(count: int) -> tuple[Any, ...]:
    return (torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(3)),)


add("D12", "two_pictures", _two_pictures, lambda: {"a": conv(), "h": lin(2 * W)}, many, extra=other, mention=say)
add("D12", "picture_and_metadata", _with_metadata, lambda: {"a": conv(), "h": lin(W + 4)}, many,
    extra=lambda count: (torch.linspace(-1, 1, 4 * count).reshape(count, 4),), mention=say)  # fmt: skip
add("D12", "pixels_and_text", _pixels_and_text, lambda: {**simple(), "e": nn.Embedding(9, K)}, many,
    extra=lambda count: (torch.arange(3 * count).reshape(count, 3) % 9,), mention=say)  # fmt: skip
add("D12", "siamese_difference", _siamese, simple, many, extra=other, mention=say)
add("D12", "optional_labels", _optional)
add("D12", "picture_and_scalar", lambda n, x, t: n.h(gap(n.tap(n.a(x)))) * (1 + t), simple, many,
    extra=lambda count: (0.5,), mention=say)  # fmt: skip
add("D12", "a_list_of_two", lambda n, x, pair: n.h(gap(n.tap(n.a(x)))) + n.aside(pair[0]), simple, many,
    extra=lambda count: ([torch.ones(1, K)],), mention=say)  # fmt: skip


# D13 -----------------------------------------------------------------------------------------------------------------
class Swish(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(x)


def scripted(module: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(module)


def recorded(module: nn.Module, example: Tensor) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(module.eval(), example)


def plain_twin(net: Any) -> nn.Module:
    """The same weights in plain torch."""
    torch.manual_seed(0)
    body, head = conv(), lin()
    state = net.state_dict()
    body.load_state_dict(
        {key[2:]: value for key, value in state.items() if key.startswith("a.") and key[2:] in body.state_dict()}
    )
    head.load_state_dict({key[2:]: value for key, value in state.items() if key.startswith("h.")})
    return Net(plain, a=body, h=head)


def _inference_weights() -> nn.Module:
    with torch.inference_mode():
        return Net(plain, **simple())


def _checkpointed(reentrant: bool) -> Any:
    def function(n: Any, x: Tensor) -> Tensor:
        if n.marks is not None:
            return plain(n, x)
        f = checkpoint(n.a, x, use_reentrant=reentrant)
        return n.h(gap(f))

    return function


def _static_int8() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        body = [torch.ao.quantization.QuantStub(), nn.Conv2d(3, W, 3, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1)]
        net = nn.Sequential(*body, nn.Flatten(), lin(), torch.ao.quantization.DeQuantStub()).eval()
        net.qconfig = torch.ao.quantization.get_default_qconfig(torch.backends.quantized.engine)
        prepared = torch.ao.quantization.prepare(net)
        prepared(torch.randn(16, 3, 32, 32))
        return torch.ao.quantization.convert(prepared)


def _static_twin(net: Any) -> nn.Module:
    body, head = conv(), lin()
    with torch.no_grad():
        body[0].weight.copy_(net[1].weight().dequantize())
        body[0].bias.copy_(net[1].bias())
        head.weight.copy_(net[5].weight().dequantize())
        head.bias.copy_(net[5].bias())
    return Net(plain, a=body, h=head)


def _functional(n: Any, x: Tensor) -> Tensor:
    if n.marks is not None:
        return plain(n, x)
    return torch.func.functional_call(n.h, dict(n.h.named_parameters()), (gap(n.a(x)),))


def _vmapped(n: Any, x: Tensor) -> Tensor:
    if n.marks is not None:
        return plain(n, x)
    return torch.func.vmap(lambda f: n.h(f.mean((1, 2))))(n.a(x))


def compiled_inside() -> nn.Module:
    net = Net(plain, **simple())
    net.compile(backend="eager")
    return net


loose = frozenset({"exact", "honest", "refused"})
add("D13", "scripted_activation", plain,
    lambda: {"a": nn.Sequential(nn.Conv2d(3, W, 3, 4, 1), scripted(Swish())), "h": lin()})  # fmt: skip
add("D13", "scripted_backbone", plain, lambda: {"a": scripted(conv()), "h": lin()}, twin=plain_twin)
add("D13", "traced_backbone", plain, lambda: {"a": recorded(conv(), torch.zeros(2, 3, 32, 32)), "h": lin()},
    twin=plain_twin)  # fmt: skip
add("D13", "scripted_head", plain, lambda: {"a": conv(), "h": scripted(lin())}, twin=plain_twin)
ENTRIES.append(Entry("scripted_whole", "D13", lambda: scripted(nn.Sequential(conv(), nn.Flatten(2))), wanted=REFUSED,
                     output="none"))  # fmt: skip
ENTRIES.append(Entry("static_int8", "D13", _static_int8, wanted=loose, twin=_static_twin, tolerance=8e-2))
ENTRIES.append(Entry("weights_of_inference_mode", "D13", _inference_weights, twin=plain_twin))
add("D13", "checkpoint_reentrant", _checkpointed(True))
add("D13", "checkpoint", _checkpointed(False))
add("D13", "functional_call", _functional)
add("D13", "vmap_inside", _vmapped)
add("D13", "weight_norm", plain, lambda: {"a": conv(), "h": nn.utils.parametrizations.weight_norm(lin())})
add("D13", "spectral_norm_inside", plain,
    lambda: {"a": nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, W, 3, 4, 1)), nn.ReLU()),
             "h": lin()})  # fmt: skip
ENTRIES.append(Entry("compiled_by_method", "D13", compiled_inside, twin=plain_twin))
add(
    "D13", "cast_to_the_weights_type", lambda n, x: n.h(gap(n.tap(n.a(x.to(n.h.weight.dtype))))), simple, tolerance=3e-2
)


# D14 -----------------------------------------------------------------------------------------------------------------
def names_help(kind: str, name: str, make: Callable[[], nn.Module], mention: tuple[str, ...],
               shape: tuple[int, ...] = (2, 3, 32, 32)) -> None:  # fmt: skip
    ENTRIES.append(Entry(name, kind, make, shape, REFUSED, output="none", mention=mention))


class Detector(nn.Module):
    """As torchvision's: a list of pictures to a list of mappings."""

    def __init__(self) -> None:
        super().__init__()
        self.a = conv()

    def forward(self, pictures: Any) -> Any:
        found = []
        for picture in pictures:
            f = self.a(picture[None])
            found.append(
                {"boxes": f[0, :4].flatten(1).T, "scores": f[0, 0].flatten().sigmoid(), "labels": torch.ones(64).long()}
            )
        return found


def _up(n: Any, x: Tensor) -> Tensor:
    return F.interpolate(n.c(n.a(x)), x.shape[2:], mode="bilinear")


dense = lambda: {"a": conv(), "c": nn.Conv2d(W, K, 1)}  # noqa: E731
names_help("D14", "segmenter", lambda: Net(_up, **dense()), ("MaskScore",))
names_help(
    "D14",
    "segmenter_mapping",
    lambda: Net(lambda n, x: {"out": _up(n, x), "aux": _up(n, x)}, **dense()),
    ("MaskScore",),
)
names_help("D14", "detector", Detector, ("BoxScore",))
names_help(
    "D14",
    "detector_raw",
    lambda: Net(lambda n, x: (n.c(n.a(x)).flatten(2).mT, n.c(n.a(x)).flatten(2)[:, :4].mT), **dense()),
    ("BoxScore", "MaskScore", "head"),
)
names_help("D14", "features_only", lambda: Net(lambda n, x: [n.a(x), n.c(n.a(x))], **dense()), ("head",))
names_help("D14", "backbone_alone", lambda: Net(lambda n, x: n.a(x), **dense()), ("head", "MaskScore"))
names_help("D14", "tokens_alone", lambda: Net(lambda n, x: n.a(x).flatten(2).mT, **dense()), ("head", "MaskScore"))
names_help("D14", "depth", lambda: Net(lambda n, x: _up(n, x)[:, :1], **dense()), ("MaskScore", "head"))
names_help("D14", "autoencoder", lambda: Net(lambda n, x: _up(n, x)[:, :3], **dense()), ("MaskScore", "head"))
names_help("D14", "loss_alone", lambda: Net(lambda n, x: n.a(x).mean(), **dense()), ("logits",))
names_help("D14", "nothing", lambda: Net(lambda n, x: {}, **dense()), ("logits",))
for _channels in (1, 2, 4, 13):
    add(
        "D14",
        f"channels_{_channels}",
        plain,
        lambda c=_channels: {"a": conv(W, 4, c), "h": lin()},
        shape=(4, _channels, 32, 32),
    )
del ANY
