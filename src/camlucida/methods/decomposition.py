"""Maps from the features alone, by factorizing them: Eigen-CAM, KPCA-CAM, FEM and Deep Feature Factorization.

None needs a gradient; the first three do not look at the classes at all. Each picture is factorized by itself, in
float64. Below, A is a picture's features as a matrix, cells × channels.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from camlucida.errors import MethodError
from camlucida.methods.forward_pass import ForwardPass, Maps
from camlucida.targets import Targets

Kernel = Literal["sigmoid", "rbf", "poly", "cosine", "linear"]
"""k(x, y): tanh(γ x·y + 1), exp(-γ |x - y|²), (γ x·y + 1)³, x·y / |x||y|, x·y."""

_TINY = 1e-300


class Concepts(NamedTuple):
    """A picture's features as a sum of few non-negative parts: A⁺ ≈ Σ_r maps_r ⊗ directions_r.

    ``maps`` (B, r, *grid) say where each concept is, in the features' unit; ``directions`` (B, r, C), of length 1, what
    it is. The strongest concept comes first.
    """

    maps: Tensor
    directions: Tensor


def eigencam(forward_pass: ForwardPass, targets: Targets) -> Maps:
    """The features projected on their first principal direction.

    A = U Σ Vᵀ, not centred (as in the paper); M = A v₁. A singular vector's sign is arbitrary: here it is such that the
    map goes with the mean activation, Σ_cells M · mean_k A_k ≥ 0, so that features without negative values have maps
    without. It says nothing of classes: every target gets the same map.

    Cost: no further pass; an eigendecomposition of the smaller of cells × cells and C × C for each picture.

    Returns:
        maps (B, T, *grid), no bias.
    """
    features = _matrices(forward_pass)
    if features.shape[1] <= features.shape[2]:
        values, vectors = torch.linalg.eigh(features @ features.mT)
        maps = vectors[..., -1] * values[:, -1:].clamp_min(0).sqrt()
    else:
        vectors = torch.linalg.eigh(features.mT @ features)[1]
        maps = (features @ vectors[..., -1:])[..., 0]
    return _for_every_target(_signed(maps, features), forward_pass, targets)


def kpcacam(
    forward_pass: ForwardPass, targets: Targets, *, kernel: Kernel = "sigmoid", gamma: float | None = None
) -> Maps:
    """Eigen-CAM with a kernel in place of the inner product.

    With x_i the features of cell i less their mean over the cells, K_ij = k(x_i, x_j), centred in feature space:
    K ← (I - 1/n) K (I - 1/n). With λ, α its largest eigenvalue and the eigenvector of length 1, M = √λ α. Its sign is
    such that the map goes with the mean activation. Every target gets the same map.

    Cost: no further pass; an eigendecomposition of cells × cells for each picture.

    Options:
        kernel: see ``Kernel``; the authors' code has the sigmoid.
        gamma: the kernel's scale γ; None: one over the number of channels.

    Returns:
        maps (B, T, *grid), no bias.

    Raises:
        MethodError: no such kernel.
    """
    features = _matrices(forward_pass)
    centred = features - features.mean(1, keepdim=True)
    gram = _gram(centred, kernel, 1 / features.shape[2] if gamma is None else gamma)
    rounding = 1e-13 * gram.abs().amax((1, 2))[:, None] * gram.shape[1]
    gram = gram - gram.mean(1, keepdim=True)
    gram = gram - gram.mean(2, keepdim=True)
    values, vectors = torch.linalg.eigh((gram + gram.mT) / 2)
    top = values[:, -1:]
    maps = vectors[..., -1] * torch.where(top > rounding, top, 0).sqrt()
    return _for_every_target(_signed(maps, features), forward_pass, targets)


def fem(forward_pass: ForwardPass, targets: Targets, *, sigmas: float = 2.0) -> Maps:
    """Where channels are unusually strong, weighted by how strong they are on the whole.

    Each channel becomes 1 where it reaches its mean plus ``sigmas`` standard deviations (of the population of cells),
    else 0; the map is the sum over channels, weighted by their means. Every target gets the same map.

    Cost: no further pass.

    Options:
        sigmas: K of the paper's K-sigma rule.

    Returns:
        maps (B, T, *grid), no bias.
    """
    features = _matrices(forward_pass)
    means = features.mean(1, keepdim=True)
    spread = (features - means).square().mean(1, keepdim=True).sqrt()
    maps = (means * (features >= means + sigmas * spread)).sum(2)
    return _for_every_target(maps, forward_pass, targets)


def dff(forward_pass: ForwardPass, targets: Targets, *, rank: int = 5) -> Maps:
    """Each concept of the picture, as far as it speaks for the target.

    The features' positive part is factorized, A⁺ ≈ H W (see ``concepts``). e_tr is the score of the features that
    concept r alone makes, less that of no features (see ``evidence``); it is shared among the concept's cells as H_r
    is: M_t = Σ_r e_tr H_r / Σ_cells H_r. Behind an affine head this is the class activation map of H W, so that it
    tells how much of that map few concepts carry.

    Cost: no further pass; ``rank`` + 1 passes through the head and the factorization.

    Options:
        rank: the number of concepts at most.

    Returns:
        maps (B, T, *grid), no bias.

    Raises:
        MethodError: the rank is below 1.
    """
    parts = concepts(forward_pass, rank=rank)
    cells = parts.maps.flatten(2)
    shares = cells / cells.sum(2, keepdim=True).clamp_min(torch.finfo(cells.dtype).tiny)
    maps = torch.bmm(evidence(forward_pass, targets, parts), shares)
    return Maps(maps.reshape(*maps.shape[:2], *parts.maps.shape[2:]), None)


def concepts(forward_pass: ForwardPass, *, rank: int = 5, iterations: int = 200) -> Concepts:
    """Deep Feature Factorization: non-negative matrix factorization of a pass's features, each picture by itself.

    Minimizes |A⁺ - H W|² over H ≥ 0 (cells × r) and W ≥ 0 (r × C): from the singular vectors (NNDSVD: Boutsidis &
    Gallopoulos, Pattern Recognition 2008), then by hierarchical alternating least squares (Cichocki & Phan, IEICE
    2009), which never increases it. The same input gives the same concepts. Collins et al. factorize a set of pictures
    together; here each picture has concepts of its own.

    Args:
        forward_pass: the forward pass.
        rank: the number of concepts, at most the number of cells and of channels.
        iterations: sweeps over all concepts.

    Returns:
        maps (B, r, *grid) and directions (B, r, C), strongest first.

    Raises:
        MethodError: the rank is below 1.
    """
    if rank < 1:
        raise MethodError(f"dff: rank must be at least 1, got {rank}")
    features = _matrices(forward_pass).clamp_min(0)
    where, what = factorize(features, min(rank, *features.shape[1:]), iterations)
    lengths = what.norm(dim=2)
    where, what = where * lengths[:, None], what / lengths.clamp_min(_TINY)[..., None]
    order = where.square().sum(1).argsort(dim=1, descending=True, stable=True)
    where = torch.take_along_dim(where, order[:, None], 2).mT.to(forward_pass.features)
    what = torch.take_along_dim(what, order[..., None], 1).to(forward_pass.features)
    return Concepts(where.reshape(*where.shape[:2], *forward_pass.features.shape[2:]), what)


def evidence(forward_pass: ForwardPass, targets: Targets, factors: Concepts) -> Tensor:
    """What each concept alone adds to the scores: S(head(maps_r ⊗ directions_r)) - S(head(0)), (B, T, r).

    Tokens before the grid stay as they were. Behind a pooling, normalization statistics are held at this pass's.
    """
    parts = factors.maps.flatten(2)[:, :, None] * factors.directions[..., None]  # (B, r, C, cells)
    with torch.no_grad():
        if forward_pass.split.pooling is not None and forward_pass.split.kind != "nonlinear":
            pooled, head = forward_pass.pooled_head()
            nothing = targets.of(head(torch.zeros_like(pooled)))
            sums = parts.sum(3) / forward_pass.split.pooling.divisor
            scores = [targets.of(head(part)) for part in sums.unbind(1)]
        else:
            nothing = targets.of(forward_pass.head(torch.zeros_like(forward_pass.features)))
            scores = [
                targets.of(forward_pass.head(part.reshape(forward_pass.features.shape))) for part in parts.unbind(1)
            ]
        told: Tensor = torch.stack(scores, 2) - nothing[..., None]
    return told


def factorize(matrices: Tensor, rank: int, iterations: int) -> tuple[Tensor, Tensor]:
    """Non-negative factors (B, m, rank) and (B, rank, n) of non-negative matrices (B, m, n), deterministically.

    Example:
        >>> where, what = factorize(torch.tensor([[[1.0, 2.0], [2.0, 4.0], [0.0, 0.0]]], dtype=torch.float64), 1, 5)
        >>> (where @ what)[0].tolist()
        [[1.0, 2.0], [2.0, 4.0], [0.0, 0.0]]
    """
    where, what = _first_guess(matrices, rank)
    for _ in range(iterations):
        where = _sweep(where, matrices @ what.mT, what @ what.mT)
        what = _sweep(what.mT, matrices.mT @ where, where.mT @ where).mT
    return where, what


def _sweep(factor: Tensor, products: Tensor, gram: Tensor) -> Tensor:
    """The best non-negative value of each column of a factor in turn, the others held."""
    columns = list(factor.unbind(2))
    for r in range(len(columns)):
        missing = products[..., r] - (torch.stack(columns, 2) @ gram[..., r, None])[..., 0]
        columns[r] = (columns[r] + missing / gram[:, r, r, None].clamp_min(_TINY)).clamp_min(0)
    return torch.stack(columns, 2)


def _first_guess(matrices: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """NNDSVD: of each pair of singular vectors, the pair of their positive or negative parts that weighs more."""
    left, values, right = torch.linalg.svd(matrices, full_matrices=False)
    where, what = [], []
    for r in range(rank):
        u, v = left[..., r], right[:, r]
        plus = u.clamp_min(0).norm(dim=1) * v.clamp_min(0).norm(dim=1)
        minus = (-u).clamp_min(0).norm(dim=1) * (-v).clamp_min(0).norm(dim=1)
        sign = torch.where(plus >= minus, 1.0, -1.0)[:, None]
        u, v = (sign * u).clamp_min(0), (sign * v).clamp_min(0)
        scale = (values[:, r] * torch.maximum(plus, minus)).sqrt()[:, None]
        where.append(scale * u / u.norm(dim=1, keepdim=True).clamp_min(_TINY))
        what.append(scale * v / v.norm(dim=1, keepdim=True).clamp_min(_TINY))
    return torch.stack(where, 2), torch.stack(what, 1)


def _gram(x: Tensor, kernel: str, gamma: float) -> Tensor:
    """k(x_i, x_j) for all cells, (B, cells, cells)."""
    products = x @ x.mT
    squares = products.diagonal(dim1=1, dim2=2)
    if kernel == "linear":
        return products
    if kernel == "sigmoid":
        return (gamma * products + 1).tanh()
    if kernel == "poly":
        return (gamma * products + 1) ** 3
    if kernel == "cosine":
        lengths = squares.sqrt().clamp_min(_TINY)
        return products / (lengths[:, :, None] * lengths[:, None])
    if kernel == "rbf":
        distances = (squares[:, :, None] + squares[:, None] - 2 * products).clamp_min(0)
        return (-gamma * distances).exp()
    raise MethodError(f"kpcacam: no kernel {kernel!r}; expected sigmoid, rbf, poly, cosine or linear")


def _matrices(forward_pass: ForwardPass) -> Tensor:
    """The features (B, cells, C) in float64, on the CPU where the device has no float64."""
    features = forward_pass.features.cpu() if forward_pass.features.device.type == "mps" else forward_pass.features
    return features.double().flatten(2).mT.contiguous()


def _signed(maps: Tensor, features: Tensor) -> Tensor:
    """Maps (B, cells) signed to go with the mean activation; if neither sign does, the strongest cell is positive."""
    along = (maps * features.mean(2)).sum(1, keepdim=True)
    scale = maps.norm(dim=1, keepdim=True) * features.mean(2).norm(dim=1, keepdim=True)
    strongest = torch.take_along_dim(maps, maps.abs().argmax(1, keepdim=True), 1)
    return torch.where(torch.where(along.abs() > 1e-12 * scale, along, strongest) < 0, -maps, maps)


def _for_every_target(maps: Tensor, forward_pass: ForwardPass, targets: Targets) -> Maps:
    """Maps (B, cells) of the pictures, as those of each of T targets."""
    grid = forward_pass.features.shape[2:]
    each = maps.to(forward_pass.features).reshape(len(maps), 1, *grid)
    return Maps(each.expand(-1, targets.ids.shape[1], *grid), None)
