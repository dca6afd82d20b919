"""Backbones of the TS-CAM head: vision transformers that give their patch tokens and where the class token looks."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from camlucida.errors import MissingExtraError, TrainingError
from camlucida.pytorch.explicit_attention import ExplicitAttention
from camlucida.training.backbones.backbone import Backbone
from camlucida.training.backbones.own_networks import conv_bn
from camlucida.training.config import TrainConfig

OWN = "128-6-4"
"""Width, layers and heads of "vit"."""


class TokenBackbone(Backbone):
    """A transformer's patch tokens on their grid, and as one more channel the class token's attention.

    The attention is the class token's row of the softmax, averaged over heads and layers (Gao et al., "TS-CAM", ICCV
    2021, section 3.2; they sum over layers). It is computed in evaluation alone; while training the channel is 0.

    Attributes:
        prefix: tokens before the patches': the class token, which is the first, and others.
        patch: pixels along a patch.
    """

    prefix: int
    patch: int

    def tokens(self, images: Tensor) -> Tensor:
        """All tokens after the last layer's normalization, (B, prefix + h·w, C); the class token is the first."""
        raise NotImplementedError

    def stages(self, images: Tensor) -> tuple[Tensor, ...]:
        """The class token (B, C, 1, 1), and the patch tokens with the attention (B, C + 1, h, w)."""
        if self.training:
            tokens = self.tokens(images)
            looks = tokens.new_zeros(len(tokens), tokens.shape[1] - self.prefix)
        else:
            weights: list[Tensor] = []
            with ExplicitAttention(weights.append):
                tokens = self.tokens(images)
            of_class_token = [layer.detach().mean(1)[:, 0].float() for layer in weights if layer.ndim == 4]
            looks = torch.stack(of_class_token).mean(0)[:, self.prefix :].to(tokens.dtype)
        patches = tokens[:, self.prefix :]
        rows = images.shape[-2] // self.patch
        features = torch.cat([patches, looks[:, :, None]], 2).transpose(1, 2)
        features = features.reshape(*features.shape[:2], rows, -1)
        return tokens[:, 0, :, None, None], features

    def _sized(self, size: int, patch: int, width: int) -> None:
        self.patch = patch
        self.grid_hw = (size // patch, size // patch)
        self.channels = (width, width + 1)


class OwnTransformer(TokenBackbone):
    """A small vision transformer for small pictures: a stem of strided convolutions in place of patches of raw pixels
    (Xiao et al., "Early Convolutions Help Transformers See Better", NeurIPS 2021), layers with normalization first.
    """

    prefix = 1

    def __init__(self, width: int, layers: int, heads: int, stride: int, size: int) -> None:
        super().__init__()
        if min(width, layers, heads) < 1 or width % heads:
            raise TrainingError(f"backbone: vit:WIDTH-LAYERS-HEADS needs heads that divide the width, got "
                                f"{width}-{layers}-{heads}")  # fmt: skip
        if size % stride:
            raise TrainingError(f"size: a transformer needs a multiple of stride={stride}, got {size}")
        halvings = stride.bit_length() - 1
        widths = [3, *(max(width >> (halvings - 1 - i), 16) for i in range(halvings))]
        stem: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            stem += [conv_bn(inputs, outputs, 2), nn.ReLU()]
        self.stem = nn.Sequential(*stem, nn.Conv2d(widths[-1], width, 1))
        self._sized(size, stride, width)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.places = nn.Parameter(torch.randn(1, width, *self.grid_hw) * 0.02)
        self.layers = nn.ModuleList(_Layer(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def tokens(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, 1 + h·w, width)."""
        patches = self.stem(images)
        places: Tensor = self.places
        if patches.shape[2:] != places.shape[2:]:
            places = F.interpolate(places, size=patches.shape[2:], mode="bilinear", align_corners=False)
        x = torch.cat([self.class_token.expand(len(images), -1, -1), (patches + places).flatten(2).transpose(1, 2)], 1)
        for layer in self.layers:
            x = layer(x)
        normal: Tensor = self.norm(x)
        return normal


class _Layer(nn.Module):
    """Attention, then two linear layers; each behind a normalization, beside a shortcut."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.hidden = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, C) to the same."""
        batch, length, width = x.shape
        qkv = self.qkv(self.norms[0](x)).reshape(batch, length, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(query, key, value)
        x = x + self.project(mixed.transpose(1, 2).reshape(batch, length, width))
        sums: Tensor = x + self.hidden(self.norms[1](x))
        return sums


class TimmTransformer(TokenBackbone):
    """A timm vision transformer with a class token, without its head; the stride must be its patch."""

    def __init__(self, name: str, size: int, stride: int, pretrained: bool) -> None:
        super().__init__()
        try:
            import timm
            from timm.models.vision_transformer import VisionTransformer
        except ImportError as error:
            raise MissingExtraError("timm", "zoo") from error
        if not timm.is_model(name):
            raise TrainingError(f"backbone: timm has no model {name!r}")
        try:
            model = timm.create_model(name, pretrained=pretrained, num_classes=0, img_size=size, dynamic_img_size=True)
        except TypeError:
            model = None
        if not isinstance(model, VisionTransformer) or model.cls_token is None:
            raise TrainingError(f"backbone: {name} is no vision transformer with a class token, which tscam needs")
        patch = model.patch_embed.patch_size[0]
        if stride != patch or size % patch:
            raise TrainingError(f"stride: {name} has patches of {patch} pixels; take stride={patch} and a size that is "
                                f"a multiple of it, not stride={stride} and size={size}")  # fmt: skip
        self.model = model
        self.mean, self.std = (tuple(model.pretrained_cfg[key]) for key in ("mean", "std"))
        self.prefix = int(model.num_prefix_tokens)
        self._sized(size, patch, int(model.embed_dim))

    def tokens(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, prefix + h·w, C)."""
        tokens: Tensor = self.model.forward_features(images)
        return tokens


def token_backbone(config: TrainConfig) -> TokenBackbone:
    """The transformer that ``config.backbone`` names: "vit", "vit:WIDTH-LAYERS-HEADS" or "timm:NAME".

    Raises:
        TrainingError: it is none of these, or does not fit size and stride.
        MissingExtraError: timm is not installed.

    >>> backbone = token_backbone(TrainConfig(backbone="vit:32-2-4", size=32, stride=8))
    >>> backbone.eval()(torch.zeros(1, 3, 32, 32)).shape
    torch.Size([1, 33, 4, 4])
    """
    name, _, rest = config.backbone.partition(":")
    if name == "timm":
        return TimmTransformer(rest, config.size, config.stride, config.pretrained)
    parts = (rest or OWN).split("-")
    if name != "vit" or len(parts) != 3 or not all(part.isdecimal() for part in parts):
        raise TrainingError(f"backbone: tscam needs a transformer, vit, vit:128-6-4 (width, layers, heads) or "
                            f"timm:NAME, got {config.backbone!r}")  # fmt: skip
    width, layers, heads = map(int, parts)
    return OwnTransformer(width, layers, heads, config.stride, config.size)
