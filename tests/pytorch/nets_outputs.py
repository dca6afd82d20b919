"""Kinds B5 (networks that end in an activation) and B6 (networks that return several things)."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from typing import Any

import torch
from nets_branches import ANY, BEST, TOLD, K, W, conv, gap, lin
from tapped import Net
from torch import Tensor
from verdicts import Entry

ENTRIES: list[Entry] = []
one_logit = lambda: {"a": conv(), "h": lin(W, 1)}  # noqa: E731
some_logits = lambda: {"a": conv(), "h": lin()}  # noqa: E731


def ended(name: str, end: Any, parts: Any = some_logits, wanted: frozenset[str] = TOLD, strength: float = 4.0) -> None:
    """A network whose logits, well away from zero, go through ``end``."""

    def function(n: Any, x: Tensor) -> Tensor:
        return end(n.scored(strength * n.h(gap(n.tap(n.a(x))))))

    ENTRIES.append(Entry(name, "B5", lambda: Net(function, **parts()), wanted=wanted, output="probability"))


ended("sigmoid", torch.sigmoid, one_logit, BEST)
ended("sigmoid_squeezed", lambda y: torch.sigmoid(y).squeeze(1), one_logit, BEST)
ended("sigmoid_flattened", lambda y: torch.sigmoid(y).flatten(), one_logit, BEST)
ended("sigmoid_first_column", lambda y: torch.sigmoid(y)[:, 0], one_logit, BEST)
ended("sigmoid_to_float", lambda y: torch.sigmoid(y).float(), one_logit, BEST)
ended("sigmoid_view", lambda y: y.sigmoid().view(-1), one_logit, BEST)
ended("sigmoid_clamped", lambda y: torch.sigmoid(y).clamp(1e-6, 1 - 1e-6), one_logit, BEST)
ended("sigmoid_reshaped_and_cast", lambda y: torch.sigmoid(y).reshape(-1, 1).type(torch.float32), one_logit, BEST)
ended("squeezed_then_sigmoid", lambda y: torch.sigmoid(y.squeeze(1)), one_logit, BEST)
ended("logistic_by_hand", lambda y: 1 / (1 + torch.exp(-y)), one_logit)
ended("half_of_tanh", lambda y: (torch.tanh(y / 2) + 1) / 2, one_logit)
ended("sigmoid_of_many", torch.sigmoid, some_logits, BEST)
ended("sigmoid_many_clamped", lambda y: torch.sigmoid(y).clamp(0, 1), some_logits, BEST)
ended("softmax", lambda y: y.softmax(1), some_logits, BEST)
ended("softmax_flattened", lambda y: y.softmax(1).flatten(1), some_logits, BEST)
ended("softmax_clamped", lambda y: y.softmax(1).clamp(1e-7, 1), some_logits, BEST)
ended("softmax_clamp_min", lambda y: y.softmax(-1).clamp_min(1e-9), some_logits, BEST)
ended("softmax_to_float", lambda y: y.softmax(1).float(), some_logits, BEST)
ended("softmax_contiguous_view", lambda y: y.softmax(1).contiguous().view(len(y), -1), some_logits, BEST)
ended("softmax_unsqueezed_squeezed", lambda y: y[:, :, None].softmax(1).squeeze(2), some_logits, BEST)
ended("softmax_with_one_cell", lambda y: y[:, :, None, None].softmax(1), some_logits, BEST)
ended("softmax_by_hand", lambda y: y.exp() / y.exp().sum(1, keepdim=True))
ended("exp_of_log_softmax", lambda y: y.log_softmax(1).exp())
ended("softmax_smoothed", lambda y: 0.9 * y.softmax(1) + 0.02)
ended("softmax_nan_to_num", lambda y: torch.nan_to_num(y.softmax(1)))
ended("softmax_rounded", lambda y: (y.softmax(1) * 1e4).round() / 1e4, wanted=ANY)
ended(
    "softmax_small_ones_dropped", lambda y: torch.where(y.softmax(1) > 0.01, y.softmax(1), y.softmax(1) * 0), wanted=ANY
)
ended("softmax_threshold", lambda y: torch.nn.functional.threshold(y.softmax(1), 1e-3, 0.0))
ended("softmax_squared_twice", lambda y: y.softmax(1).square().sqrt())
ended("softmax_renormalized", lambda y: y.softmax(1) / y.softmax(1).sum(1, keepdim=True))
ended("softmax_in_a_list", lambda y: [y.softmax(1)], some_logits, BEST)


def _mean_of_two(n: Any, x: Tensor) -> Tensor:
    p = gap(n.tap(n.a(x)))
    return (n.h(p).softmax(1) + n.g(p).softmax(1)) / 2


def _mean_of_flips(n: Any, x: Tensor) -> Tensor:
    return torch.stack([(4 * n.h(gap(n.tap(n.a(z))))).softmax(1) for z in (x, x.flip(3))]).mean(0)


def _either(n: Any, x: Tensor) -> Tensor:
    p = gap(n.tap(n.a(x)))
    return 1 - (1 - n.h(p).sigmoid()) * (1 - n.g(p).sigmoid())


def _both_columns(n: Any, x: Tensor) -> Tensor:
    p = (4 * n.h(gap(n.tap(n.a(x))))).sigmoid()
    return torch.cat((1 - p, p), 1)


def _log_of_softmax(n: Any, x: Tensor) -> Tensor:
    return (4 * n.h(gap(n.tap(n.a(x))))).softmax(1).log()


def _weighted_mean(n: Any, x: Tensor) -> Tensor:
    p = gap(n.tap(n.a(x)))
    return 0.7 * (4 * n.h(p)).softmax(1) + 0.3 * (4 * n.g(p)).softmax(1)


def _geometric(n: Any, x: Tensor) -> Tensor:
    p = gap(n.tap(n.a(x)))
    return ((4 * n.h(p)).log_softmax(1) + (4 * n.g(p)).log_softmax(1)) / 2


def heads() -> dict[str, Any]:
    return {"a": conv(), "h": lin(), "g": lin()}


for _name, _function, _parts, _output in (
    ("mean_of_two_softmaxes", _mean_of_two, heads, "probability"),
    ("weighted_mean_of_softmaxes", _weighted_mean, heads, "probability"),
    ("mean_of_softmaxes_of_flips", _mean_of_flips, some_logits, "probability"),
    ("either_of_two_sigmoids", _either, heads, "probability"),
    ("both_columns_of_a_sigmoid", _both_columns, one_logit, "probability"),
    ("mean_of_log_softmaxes", _geometric, heads, "logits"),
    ("log_of_softmax", _log_of_softmax, some_logits, "log"),
):
    ENTRIES.append(Entry(_name, "B5", lambda f=_function, p=_parts: Net(f, **p()), wanted=ANY, output=_output))


# B6 ------------------------------------------------------------------------------------------------------------------
class Output(OrderedDict):  # type: ignore[type-arg]
    """As Hugging Face returns: a mapping with attributes."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(name) from error

    def to_tuple(self) -> tuple[Any, ...]:
        return tuple(self.values())


@dataclass
class Plain:
    """A dataclass that is no mapping."""

    embedding: Tensor
    logits: Tensor


Exits = namedtuple("Exits", ["logits", "aux_logits"])
NAMES = {"class_names": [f"kind {i}" for i in range(K)]}
REFUSED = frozenset({"refused"})
SURE = frozenset({"exact"})
EITHER = frozenset({"exact", "refused"})


def returning(name: str, build: Any, wanted: frozenset[str], output: str = "logits", **more: Any) -> None:
    """``build(n, pooled, logits)`` is what the network returns; ``n.g`` makes other numbers of the pooled vector."""

    def function(n: Any, x: Tensor) -> Any:
        p = gap(n.tap(n.a(x)))
        return build(n, p, n.scored(n.h(p)))

    def parts() -> dict[str, Any]:
        return {"a": conv(), "h": lin(), "g": lin(W, 12), "v": lin(W, 1), "s": lin(W, 3)}

    ENTRIES.append(Entry(name, "B6", lambda: Net(function, **parts()), wanted=wanted, output=output, **more))


returning("embedding_then_logits", lambda n, p, y: (n.g(p), y), EITHER)
returning("embedding_then_logits_names_given", lambda n, p, y: (n.g(p), y), SURE, options=NAMES)
returning("logits_then_embedding", lambda n, p, y: (y, n.g(p)), EITHER)
returning("logits_then_embedding_names_given", lambda n, p, y: (y, n.g(p)), SURE, options=NAMES)
returning("pooled_then_logits", lambda n, p, y: (p, y), EITHER)
returning("tasks", lambda n, p, y: {"age": n.g(p), "sex": n.s(p)}, REFUSED, "none")
returning("tasks_and_logits", lambda n, p, y: {"age": n.g(p), "logits": y}, SURE)
returning("embedding_and_logits_named", lambda n, p, y: {"embedding": n.g(p), "logits": y}, SURE)
returning("probabilities_and_logits_named", lambda n, p, y: {"probs": y.softmax(1), "logits": y}, SURE)
returning("early_exits", lambda n, p, y: [y, n.h(p.square()), n.h(p.sqrt())], REFUSED, "none")
returning("early_exits_of_other_widths", lambda n, p, y: [n.g(p), n.s(p), y], REFUSED, "none")
returning("value_and_policy", lambda n, p, y: (n.v(p), y), EITHER)
returning("loss_and_logits", lambda n, p, y: Output(loss=y.sum(), logits=y), SURE)
returning("pooler_and_logits", lambda n, p, y: Output(pooler_output=n.g(p), logits=y), SURE)
returning("exits_namedtuple", lambda n, p, y: Exits(y, n.h(p.square())), SURE)
returning("plain_dataclass", lambda n, p, y: Plain(n.g(p), y), EITHER)
returning("nested_mapping", lambda n, p, y: {"head": {"logits": y, "embedding": n.g(p)}}, EITHER)
returning("nested_list", lambda n, p, y: [n.g(p), [y]], EITHER)
returning(
    "features_and_logits", lambda n, p, y: (n.a[0].weight.expand(len(p), -1, -1, -1, -1).sum((2, 3, 4)), y), EITHER
)
returning("mask_and_logits", lambda n, p, y: (p > 0, y), SURE)
returning("two_of_one_width", lambda n, p, y: {"main": y, "other": n.h(p.square())}, REFUSED, "none")
returning("prediction_then_logits", lambda n, p, y: (y.argmax(1), y), SURE)
returning("scalar_score_then_logits", lambda n, p, y: (n.v(p).squeeze(1), y), EITHER)
