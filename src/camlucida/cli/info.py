"""``camlucida info``: what a model's features and head are, and how exact its maps are."""

from __future__ import annotations

import json

from camlucida.cli import options


def info(
    model: options.ModelArgument = "demo",
    layer: options.Layer = None,
    as_json: options.Json = False,
    provider: options.Provider = None,
    threads: options.Threads = None,
) -> None:
    """Show what a model's features and head are, and how exact its maps are on the sample picture."""
    from camlucida.cli.printing import two_columns
    from camlucida.explainer import Explainer
    from camlucida.images.sample import sample
    from camlucida.models import open_model
    from camlucida.results.picture_record import number

    explainer = Explainer(open_model(model, providers=provider, threads=threads), layer=options.layers(layer))
    picture = sample()
    explanation = explainer.explain_pictures([picture])
    facts = explainer.runner.facts(explainer.preprocess(picture.pixels)[0][None])
    size, names = explainer.preprocess.size_hw, explainer.class_names
    rows = {
        "model": explainer.model.name,
        "input": f"{size[0]}×{size[1]} pixels, {explainer.preprocess.fit}",
        "features": facts.features,
        "grid": "×".join(map(str, facts.grid)),
        "classes": facts.classes,
        "labels": "unknown" if not names else ", ".join(names) if len(names) <= 100 else f"{len(names)} names",
        "head": facts.head,
        "residual": number(explanation.residual.max()),
        "sample": explanation.caption(0),
        "seen of the sample": f"{explanation.seen(0).mean():.0%}",
    }
    if as_json:
        print(json.dumps(rows))
    else:
        two_columns((key, f"{value:.1e}" if isinstance(value, float) else str(value)) for key, value in rows.items())
