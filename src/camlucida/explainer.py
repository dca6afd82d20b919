"""The whole way on one screen: pictures -> preprocess -> features -> head -> maps, and the one result."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from camlucida.errors import ImageError, TargetError
from camlucida.explanation import Explanation, Origin
from camlucida.images.batches import PreparedImage, prepared_batches
from camlucida.images.finding import find
from camlucida.images.picture import Picture, read
from camlucida.images.preprocess import Preprocess, View
from camlucida.images.symmetries import TTA
from camlucida.methods.forward_pass import Compute
from camlucida.methods.registry import find_method
from camlucida.models import open_model
from camlucida.runners.runner import Runner, residuals, with_arguments
from camlucida.runners.tta import averaged
from camlucida.targets import Activation, Classes, Expected, OutputName, plain_classes, settled_activation

if TYPE_CHECKING:
    from torch import Tensor

    from camlucida.images.picture import ImageSource
    from camlucida.models.model import ModelLike
    from camlucida.pytorch.stages import Layers

    Images = ImageSource | Tensor | Sequence[Any]

BATCH = 16


def explain(
    images: Images,
    model: ModelLike = None,
    method: str | Compute = "cam",
    classes: Classes = 1,
    *,
    layer: Layers = None,
    preprocess: Preprocess | None = None,
    class_names: Sequence[str] | None = None,
    activation: Activation | None = None,
    tta: TTA = "one",
    output: OutputName = None,
    inputs: Sequence[Any] = (),
    forward_kwargs: Mapping[str, Any] | None = None,
    explain_input: str | int | None = None,
) -> Explanation:
    """Explain what a classifier sees in pictures.

    Args:
        images: a path, folder, list, bytes, PIL image, uint8 H×W×3 array, or a preprocessed float tensor (B, C, …).
        model: an ``nn.Module``, ``"timm:…"``, ``"torchvision:…"``, ``"hf:…"``, ``"file.onnx"``, ``"file.py:factory"``;
            None: the bundled demonstration model, which needs no PyTorch.
        method: a name from ``camlucida methods``, or a function ``(pass, targets) -> Maps``, such as a registered one
            with other options (``functools.partial``).
        classes: a count (the top-k), ids, names, ``"all"``, a ``Contrast``, or a score on the logits (B, K) -> (B,).
        layer: where the features are: a layer's name or module, a stage's number (-1 is the last), "stages" for all of
            them, or a list, whose maps are fused. None and "last" find the last spatial features. A stage is the last
            value at a resolution that the network passes through.
        preprocess: how pictures become inputs; None takes the model's own, or ImageNet's usual at 224 pixels.
        class_names: the classes' names; None takes the model's own.
        activation: how logits become probabilities: "softmax", "sigmoid" (several classes at once) or "none"; None
            takes what the model itself ends in, else sigmoid for a single logit and softmax for more.
        tta: maps as the mean over the input as it is ("one"), mirrored ("flips"), and turned by quarters too
            ("dihedral"); see ``camlucida.runners.tta.averaged``.
        output: which of several outputs of the model scores the classes: a name, a place or, for what a PyTorch network
            returns, a path ("0.logits"); None finds it, by names and the number of class names.
        inputs: what a PyTorch network takes beside the pictures, by position; tensors and arrays with a row for each
            picture go with their pictures, everything else is passed on as it is.
        forward_kwargs: the same, by name.
        explain_input: where the pictures go among these: a name, or a place among the positional ones; None: in front,
            or where an argument is called ``pixel_values`` or ``images``.

    Raises:
        CamlucidaError: a subclass says what was wrong with picture, model, classes or method.

    Example:
        >>> import camlucida as cl
        >>> ex = cl.explain(cl.sample())
        >>> ex.names[0], ex.grid
        (('cat',), (10, 10))
    """
    explainer = Explainer(
        model, method=method, layer=layer, preprocess=preprocess, class_names=class_names, activation=activation,
        tta=tta, output=output,
    )  # fmt: skip
    return explainer(images, classes, inputs=inputs, forward_kwargs=forward_kwargs, explain_input=explain_input)


class Explainer:
    """A model prepared for explaining: opened and split once, used for any number of pictures.

    Thread-safe; leaves no hook, gradient or changed mode on the model. Parameters are those of ``explain``.
    """

    def __init__(
        self,
        model: ModelLike = None,
        *,
        method: str | Compute = "cam",
        layer: Layers = None,
        preprocess: Preprocess | None = None,
        class_names: Sequence[str] | None = None,
        activation: Activation | None = None,
        tta: TTA = "one",
        output: OutputName = None,
    ) -> None:
        self.model = open_model(model, output=output)
        self.method = find_method(method)
        self.preprocess = preprocess or self.model.preprocess
        self.preprocess_source = self.model.preprocess_source if preprocess is None else "given"
        self.class_names = tuple(class_names) if class_names is not None else self.model.class_names
        self.activation = activation or self.model.activation
        self._asked_activation = activation
        self.tta = tta
        engine: tuple[Any, ...] = (self.method, None if layer == "last" else layer)
        if self.model.module is not None:
            engine += (Expected(self.model.output, None if self.class_names is None else len(self.class_names)),)
        self.runner = averaged(self.model.runner(*engine), tta)

    @property
    def note(self) -> str:
        """What a user should be told with every picture, such as what is assumed of them."""
        return self.model.note if self.preprocess_source == "given" else self.model.picture_note

    def __call__(
        self,
        images: Images,
        classes: Classes = 1,
        *,
        inputs: Sequence[Any] = (),
        forward_kwargs: Mapping[str, Any] | None = None,
        explain_input: str | int | None = None,
    ) -> Explanation:
        """Explain pictures or a preprocessed tensor; see ``explain``. All pictures are held in memory."""
        classes = plain_classes(classes)
        if len(inputs) or forward_kwargs or explain_input is not None:
            return self._explain_with(images, classes, inputs, forward_kwargs or {}, explain_input)
        if _is_batch(images):
            return self._explain(images, classes, (), _views_of(images))
        parts, start = [], 0
        for batch in _batches(read_all(images)):
            own = classes[start : start + BATCH] if isinstance(classes, np.ndarray) and classes.ndim == 2 else classes
            parts.append(self.explain_pictures(batch, own))
            start += len(batch)
        if isinstance(classes, np.ndarray) and classes.ndim == 2 and len(classes) != start:
            raise TargetError(f"classes: expected a row for each of {start} pictures, got {len(classes)} rows")
        return joined(parts)

    def explain_pictures(self, pictures: Sequence[Picture], classes: Classes = 1) -> Explanation:
        """Explain one batch of pictures already read."""
        return self.explain_prepared(self._prepared(pictures), classes)

    def explain_prepared(self, prepared: Sequence[PreparedImage[Any]], classes: Classes = 1) -> Explanation:
        """Explain one batch that was read and preprocessed elsewhere (see ``images.batches``)."""
        return self._explain_read(prepared, classes)

    def stream(
        self,
        paths: Iterable[str | Path],
        classes: Classes = 1,
        *,
        on_error: Callable[[ImageError], None] | None = None,
        batch: int = BATCH,
    ) -> Generator[Explanation]:
        """Explain image files, a batch after the other; memory does not grow with their number.

        Args:
            paths: the files, read lazily.
            classes: see ``explain``.
            on_error: called, in the caller's thread, with the error of every file that is no readable image; the others
                go on. None: the first such error is raised.
            batch: images that go through the model at once; fewer where they are very large.

        Yields:
            Explanations of up to ``batch`` images, in the files' order.

        Raises:
            ImageError: a file is no readable image, and there is no ``on_error``.
        """

        def skip(_: str | Path, error: ImageError) -> None:
            if on_error is None:
                raise error
            on_error(error)

        batches = prepared_batches(paths, read, self.preprocess, batch=batch, on_error=skip)
        with closing(batches):
            for prepared in batches:
                yield self.explain_prepared(prepared, classes)

    def _prepared(self, pictures: Sequence[Picture]) -> list[PreparedImage[Any]]:
        channels = self.preprocess.channels
        return [PreparedImage(None, picture, *self.preprocess(picture.of_channels(channels))) for picture in pictures]

    def _explain_with(
        self, images: Images, classes: Classes, inputs: Sequence[Any], keywords: Mapping[str, Any],
        where: str | int | None,
    ) -> Explanation:  # fmt: skip
        """Explain pictures to a network that takes more than pictures."""
        if _is_batch(images):
            count = len(images)  # type: ignore[arg-type]
            runner = with_arguments(self.runner, inputs, keywords, where, range(count), count)
            return self._explain(images, classes, (), _views_of(images), runner)
        pictures, parts = list(read_all(images)), []
        for start in range(0, len(pictures), BATCH):
            rows = range(start, min(start + BATCH, len(pictures)))
            batch = pictures[start : rows.stop]
            own = classes[start : rows.stop] if isinstance(classes, np.ndarray) and classes.ndim == 2 else classes
            runner = with_arguments(self.runner, inputs, keywords, where, rows, len(pictures))
            parts.append(self._explain_read(self._prepared(batch), own, runner))
        return joined(parts)

    def _explain_read(
        self, prepared: Sequence[PreparedImage[Any]], classes: Classes, runner: Runner | None = None
    ) -> Explanation:
        batch = np.stack([image.values for image in prepared])
        pictures, views = tuple(image.picture for image in prepared), tuple(image.view for image in prepared)
        return self._explain(batch, classes, pictures, views, runner)

    def _explain(
        self,
        batch: Any,
        classes: Classes,
        pictures: tuple[Picture, ...],
        views: tuple[View, ...],
        runner: Runner | None = None,
    ) -> Explanation:
        result = (runner or self.runner).explain(batch, classes, self.class_names)
        facts = result.facts
        if facts.activation == "none" and self._asked_activation in ("softmax", "sigmoid"):
            raise TargetError(
                f"activation={self._asked_activation!r} would be applied to probabilities: {facts.note}; leave it out"
            )
        activation = settled_activation(self.activation, facts.activation, result.logits.shape[1])
        origin = Origin(
            self.model.name, self.method.name, result.unit or self.method.unit, facts.head, facts.features, activation,
            "; ".join(filter(None, (self.note if pictures else self.model.note, facts.note))), facts.output,
            self.preprocess_source if pictures else "",
        )  # fmt: skip
        return Explanation(
            result.logits, result.targets.ids, result.scores, result.maps, result.bias, residuals(result),
            result.targets.names, views, pictures, origin,
        )  # fmt: skip


def read_all(images: Any) -> Iterator[Picture]:
    """Read the pictures of whatever names them: files, folders and patterns are searched, the rest is read as it is."""
    if isinstance(images, str | Path):
        for path in find(images):
            yield read(path)
    elif isinstance(images, Picture | bytes | np.ndarray | Image.Image):
        yield read(images)
    elif isinstance(images, Iterable) and not hasattr(images, "is_floating_point"):  # a tensor of whole numbers
        for image in images:
            yield from read_all(image)
    else:
        raise ImageError(f"{type(images).__name__}: not a picture; expected a path, bytes, a PIL image, a uint8 array "
                         "H×W×3, a list of these, or a float tensor B×C×H×W")  # fmt: skip


def joined(parts: Sequence[Explanation]) -> Explanation:
    """Join the explanations of several batches to one.

    Raises:
        ImageError: there are none.
    """
    if not parts:
        raise ImageError("no picture was given; pass at least one")
    if len(parts) == 1:
        return parts[0]
    values: dict[str, Any] = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in ("logits", "classes", "scores", "maps", "bias", "residual")
    }
    for name in ("names", "views", "pictures"):
        values[name] = tuple(value for part in parts for value in getattr(part, name))
    return Explanation(**values, origin=parts[0].origin)


def _is_batch(images: Any) -> bool:
    """A preprocessed float tensor (or float array) with a batch axis."""
    floating = getattr(images, "is_floating_point", None)
    if callable(floating):
        return bool(floating()) and images.ndim >= 3
    return isinstance(images, np.ndarray) and images.dtype.kind == "f" and images.ndim >= 3


def _views_of(batch: Any) -> tuple[View, ...]:
    if batch.ndim != 4:
        return ()
    return (View.whole((int(batch.shape[2]), int(batch.shape[3]))),) * int(batch.shape[0])


def _batches(pictures: Iterator[Picture]) -> Iterator[list[Picture]]:
    while batch := list(itertools.islice(pictures, BATCH)):
        yield batch
