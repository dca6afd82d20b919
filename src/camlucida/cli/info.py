"""``camlucida info``: what a model's features and head are, and how exact its maps are."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from camlucida.cli import options

if TYPE_CHECKING:
    from camlucida.explainer import Explainer
    from camlucida.images.picture import Picture
    from camlucida.models import Model


def info(
    model: options.ModelArgument = "demo",
    layer: options.Layer = None,
    mean: options.Mean = None,
    std: options.Std = None,
    scale: options.Scale = None,
    bgr: options.Bgr = False,
    size: options.PictureSize = None,
    output: options.Output = None,
    as_json: options.Json = False,
    provider: options.Provider = None,
    threads: options.Threads = None,
) -> None:
    """Show what a model's features and head are, and how exact its maps are on the sample picture."""
    from camlucida.cli.printing import two_columns
    from camlucida.explainer import Explainer
    from camlucida.images.sample import sample

    fields = options.preprocess_fields(mean, std, scale, bgr, size)
    opened = options.opened(model, fields, providers=provider, threads=threads, output=output)
    picture, chosen = sample(), options.layers(layer)
    if opened.session is not None and "maps" not in opened.session.outputs and chosen is None:
        found = _without_maps(opened, picture, output)
    else:
        found = _explained(Explainer(opened, layer=chosen), picture)
    names, preprocess = opened.class_names, opened.preprocess
    rows = {
        "model": opened.name,
        "input": f"{preprocess.size_hw[0]}×{preprocess.size_hw[1]} pixels, {preprocess.fit}",
        "preprocessing": opened.assumption or f"{opened.preprocess_source}: {preprocess.words}",
        "features": found["features"],
        "grid": found["grid"],
        "classes": found["classes"],
        "labels": "unknown" if not names else ", ".join(names) if len(names) <= 100 else f"{len(names)} names",
        **{key: value for key, value in found.items() if key not in ("features", "grid", "classes")},
        **({"note": opened.note} if opened.note and opened.session is not None and model != "demo" else {}),
    }
    if as_json:
        print(json.dumps(rows))
    else:
        two_columns((key, f"{value:.1e}" if isinstance(value, float) else str(value)) for key, value in rows.items())


def _explained(explainer: Explainer, picture: Picture) -> dict[str, Any]:
    """What maps of the sample picture show."""
    from camlucida.results.picture_record import number

    explanation = explainer.explain_pictures([picture])
    values = explainer.preprocess(picture.of_channels(explainer.preprocess.channels))[0]
    facts = explainer.runner.facts(values[None])
    return {
        "features": facts.features,
        "grid": "×".join(map(str, facts.grid)),
        "classes": facts.classes,
        **({"output": facts.output} if facts.output else {}),
        **({"scores": facts.note} if facts.note else {}),
        "head": facts.head,
        "residual": number(explanation.residual.max()),
        "sample": explanation.caption(0),
        "seen of the sample": f"{explanation.seen(0).mean():.0%}",
    }


def _without_maps(opened: Model, picture: Picture, output: str | None) -> dict[str, Any]:
    """What the graph of an ONNX file says: with exact maps as they would be exported, else why there are none."""
    from camlucida.errors import ImageError
    from camlucida.explainer import Explainer
    from camlucida.export.inspecting import inspect_head

    channels = opened.preprocess.channels
    try:
        batch = opened.preprocess(picture.of_channels(channels))[0][None]
    except ImageError:  # the sample picture has three channels, the model others
        import numpy as np

        batch = np.zeros((1, channels, *opened.preprocess.size_hw), np.float32)
    head = inspect_head(opened, batch, output)
    if head.model is not None and channels in (1, 3):
        exact = _explained(Explainer(head.model), picture)
        advice = f"; camlucida export {opened.name} -o cam.onnx writes its maps"
        return {**exact, "features": head.facts.features, "head": f"{head.facts.head}{advice}"}
    facts = head.facts
    return {
        "features": facts.features,
        "grid": "×".join(map(str, facts.grid)) or "none found",
        "classes": facts.classes,
        "head": facts.head,
        "residual": None,
    }
