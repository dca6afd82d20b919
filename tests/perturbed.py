"""Slow float64 versions of what perturbation methods are made of, with loops; nothing here uses the library."""

from __future__ import annotations

from itertools import product

import numpy as np
import torch


def axis_matrix(cells, size):
    """Half-pixel linear interpolation of ``cells`` values at ``size`` places, as a matrix."""
    matrix = np.zeros((size, cells))
    for i in range(size):
        place = min(max((i + 0.5) * cells / size - 0.5, 0), cells - 1)
        low = int(place)
        matrix[i, low] += 1 - (place - low)
        matrix[i, min(low + 1, cells - 1)] += place - low
    return matrix


def up(one, space):
    """One map over an input's space; NumPy or torch."""
    for axis, size in enumerate(space):
        matrix = axis_matrix(one.shape[axis], size)
        if isinstance(one, torch.Tensor):
            one = torch.movedim(torch.tensordot(torch.from_numpy(matrix), one, dims=([1], [axis])), 0, axis)
        else:
            one = np.moveaxis(np.tensordot(matrix, one, ([1], [axis])), 0, axis)
    return one


def unit(one):
    span = one.max() - one.min()
    return (one - one.min()) / span if span > 1e-12 else one * 0


def softmax(values):
    values = np.exp(np.asarray(values) - np.max(values))
    return values / values.sum()


@torch.no_grad()
def logits(net, x):
    """Of one input, C×space, as an array (K,)."""
    return net(torch.as_tensor(x)[None]).reshape(-1).numpy()


@torch.no_grad()
def features(case, net, x):
    return case.on_grid(net.body(x)).numpy()


def channel_masks(case, net, x, b):
    """The masks of picture ``b``: None for constant channels."""
    for one in features(case, net, x)[b]:
        yield None if one.max() == one.min() else unit(up(one, x.shape[2:]))


def scorecam(case, net, x, class_id, score=None, among=None):
    """Algorithm 1 of the paper, a channel at a time. ``score(picture, mask, channel)`` is f(masked)."""
    score = score or (lambda picture, mask, _: logits(net, picture * mask)[class_id])
    found = []
    for b, picture in enumerate(x.numpy()):
        own = features(case, net, x)[b]
        base = logits(net, 0 * picture)[class_id]
        channels = list(range(len(own))) if among is None else among(own)
        masks = list(channel_masks(case, net, x, b))
        increase = [0.0 if masks[k] is None else score(picture, masks[k], k) - base for k in channels]
        found.append(sum(weight * own[k] for weight, k in zip(softmax(increase), channels, strict=True)))
    return np.stack(found)


def blur(picture, deviation, radius):
    """A Gaussian along every axis of space, mirrored at the borders; a picture is C×space."""
    for axis in range(1, picture.ndim):
        size = picture.shape[axis]
        reach = min(radius, size - 1)
        kernel = [np.exp(-(step**2) / (2 * deviation**2)) for step in range(-reach, reach + 1)]
        out = np.zeros_like(picture)
        for i in range(size):
            for step, weight in zip(range(-reach, reach + 1), kernel, strict=True):
                j = abs(i + step)
                j = 2 * (size - 1) - j if j > size - 1 else j
                out_i = [slice(None)] * picture.ndim
                out_j = [slice(None)] * picture.ndim
                out_i[axis], out_j[axis] = i, j
                out[tuple(out_i)] += weight / sum(kernel) * picture[tuple(out_j)]
        picture = out
    return picture


def groupcam(case, net, x, class_id, groups, percentile, deviation, radius):
    """The paper's map at the input's own resolution."""
    found = []
    for b, picture in enumerate(x.numpy()):
        leaf = net.body(x[b : b + 1]).detach().requires_grad_()
        (gradient,) = torch.autograd.grad(net.head(leaf).reshape(-1)[class_id], leaf)
        own, weights = features(case, net, x)[b], case.on_grid(gradient)[0].flatten(1).mean(1).numpy()
        soft = blur(picture, deviation, radius)
        base = softmax(logits(net, soft))[class_id]
        size = -(-len(own) // groups)
        total = np.zeros(x.shape[2:])
        for first in range(0, len(own), size):
            summed = np.maximum(sum(weights[k] * own[k] for k in range(first, min(first + size, len(own)))), 0)
            summed = np.where(summed > np.percentile(summed, percentile), summed, 0)
            if summed.max() > summed.min():
                mask = unit(up(summed, x.shape[2:]))
                total += (softmax(logits(net, picture * mask + soft * (1 - mask)))[class_id] - base) * mask
        found.append(total)
    return np.stack(found)


def rise(net, x, class_id, samples, cells, keep, seed):
    """Masks are drawn as the method says: a grid, then a shift along each axis, mask after mask."""
    generator = torch.Generator().manual_seed(seed)
    space = x.shape[2:]
    sides = [-(-size // cells) for size in space]
    total = np.zeros((len(x), *space))
    for _ in range(samples):
        grid = (torch.rand([cells] * len(space), generator=generator) < keep).double().numpy()
        laid = up(grid, [(cells + 1) * side for side in sides])
        shifts = [int(torch.randint(side, (), generator=generator)) for side in sides]
        mask = laid[tuple(slice(shift, shift + size) for shift, size in zip(shifts, space, strict=True))]
        for b, picture in enumerate(x.numpy()):
            total[b] += softmax(logits(net, picture * mask))[class_id] * mask / (samples * keep)
    return total


def occlusion(net, x, class_id, window, stride, fill):
    space = x.shape[2:]
    cells = [-(-size // stride) for size in space]
    found = np.zeros((len(x), *cells))
    for b, place in product(range(len(x)), product(*map(range, cells))):
        hidden = x[b].clone()
        inside = torch.ones(space, dtype=torch.bool)
        for axis, (i, size, count) in enumerate(zip(place, space, cells, strict=True)):
            start = int(np.floor((i + 0.5) * size / count - window / 2 + 0.5))
            along = (torch.arange(size) >= start) & (torch.arange(size) < start + window)
            inside &= along.reshape([-1 if a == axis else 1 for a in range(len(space))])
        hidden[:, inside] = fill
        found[(b, *place)] = logits(net, x[b])[class_id] - logits(net, hidden)[class_id]
    return found


@torch.no_grad()
def head_logits(case, net, whole):
    """Of one input's features, in their own layout."""
    return net.head(whole).reshape(-1).numpy()


def with_grid(case, whole, change):
    """Features of one input in their own layout, with the grid's cells (C, *grid) changed by a function."""
    changed = whole.clone()
    if case.layout.startswith("NC"):
        changed[0] = change(changed[0].reshape(changed.shape[1], *case.grid)).reshape(changed.shape[1:])
    else:
        cells = changed.flatten(1, -2)[0, case.prefix :].T.reshape(-1, *case.grid)
        flat = torch.cat((changed.flatten(1, -2)[:, : case.prefix], change(cells).flatten(1).T[None]), 1)
        changed = flat.reshape(changed.shape)
    return changed


@torch.no_grad()
def ablationcam(case, net, x, class_id):
    found = []
    for b, own in enumerate(features(case, net, x)):
        whole = net.body(x[b : b + 1])
        score = head_logits(case, net, whole)[class_id]
        total = np.zeros(case.grid)
        for k in range(len(own)):

            def without(cells, k=k):
                kept = cells.clone()
                kept[k] = 0
                return kept

            total += (score - head_logits(case, net, with_grid(case, whole, without))[class_id]) * own[k]
        found.append(total)
    return np.stack(found)


@torch.no_grad()
def reciprocam(case, net, x, class_id, gaussian):
    found = np.zeros((len(x), *case.grid))
    for b, place in product(range(len(x)), product(*map(range, case.grid))):
        mask = torch.zeros(case.grid, dtype=torch.float64)
        for other in product(*map(range, case.grid)):
            far = [abs(i - j) for i, j in zip(place, other, strict=True)]
            if gaussian and max(far) <= 1:
                mask[other] = 0.5 ** len(far) * 0.5 ** sum(far)
            elif max(far) == 0:
                mask[other] = 1
        whole = net.body(x[b : b + 1])
        found[(b, *place)] = softmax(head_logits(case, net, with_grid(case, whole, lambda cells, m=mask: cells * m)))[
            class_id
        ]
    return found


def opticam(case, net, x, class_id, steps, rate):
    """Adam written out, for one picture at a time."""
    found = []
    for b in range(len(x)):
        own = torch.from_numpy(features(case, net, x)[b])
        u = torch.full((len(own),), 0.5, dtype=torch.float64)
        first, second = torch.zeros_like(u), torch.zeros_like(u)
        for step in range(1, steps + 1):
            u.requires_grad_()
            mask = unit(up(torch.tensordot(u.softmax(0), own, dims=1), x.shape[2:]))
            (gradient,) = torch.autograd.grad(-net((x[b] * mask)[None]).reshape(-1)[class_id], u)
            first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
            u = u.detach() - rate * (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
        found.append(torch.tensordot(u.softmax(0), own, dims=1).numpy())
    return np.stack(found)
