"""Requests in, answers out: pictures are read in threads, collected into batches, explained, and written as JSON."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from camlucida.errors import ImageError, ServeError
from camlucida.explainer import Explainer
from camlucida.explanation import Explanation, Origin
from camlucida.images.picture import read
from camlucida.images.preprocess import View
from camlucida.runners.runner import MapBatch, residuals
from camlucida.serve.answer import answer_json
from camlucida.serve.concurrency import RETRY
from camlucida.serve.explain_request import ExplainRequest, KnownClasses, RequestedClasses, check_pixels, parse_request
from camlucida.serve.problems import UNEXPECTED, ProblemError
from camlucida.serve.settings import ServerSettings
from camlucida.targets import Activation, settled_activation

logger = logging.getLogger("camlucida.serve")

FULL = "the server is busy; try again in a moment"

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(eq=False, slots=True)
class Job:
    """One request on its way. Whoever waits for it may set ``abandoned``; then it is dropped at its next step."""

    body: bytes
    boundary: str
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[bytes]
    abandoned: bool = False


@dataclass(eq=False, slots=True)
class PreparedJob:
    """A job whose picture waits for the model."""

    job: Job
    request: ExplainRequest
    values: NDArray[np.float32]
    view: View
    note: str


class RequestBatcher:
    """Threads that turn request bodies into answers.

    Bodies are parsed, decoded and preprocessed by ``settings.workers`` threads, which write the answers too; as many
    others each take up to ``settings.batch`` pictures and run the model on them. Nothing but bookkeeping happens in the
    event loop.

    Args:
        explainer: the prepared model; its pictures are two-dimensional.
        settings: how many, how long.
        on_batch: called with the size of every batch.

    Raises:
        ServeError: the model's maps do not lie over pictures, or its file has those of the likeliest classes alone.
        CamlucidaError: the model fails on a blank picture.
    """

    def __init__(self, explainer: Explainer, settings: ServerSettings, on_batch: Callable[[int], None]) -> None:
        self.explainer, self.settings, self._on_batch = explainer, settings, on_batch
        name, session = explainer.model.name, explainer.model.session
        # An ONNX file computes the maps of all classes anyway, so pictures with different wishes share a run.
        self._every_class = session is not None
        blank = np.zeros((1, 3, *explainer.preprocess.size_hw), np.float32)
        maps = explainer.runner.explain(blank, 1, explainer.class_names)
        if maps.maps.ndim != 4:
            raise ServeError(f"{name}: its maps lie over no picture; the server takes pictures only")
        self.classes = KnownClasses(maps.logits.shape[1], explainer.class_names)
        if session is not None and "top_ids" in session.outputs and self.classes.width > 1:
            top = session.run(["top_ids"], session.blank())[0].shape[1]
            raise ServeError(
                f"{name}: has the maps of the likeliest {top} classes alone, and requests may ask for any; export it "
                "again without --top"
            )
        self.grid_hw = maps.maps.shape[2:]
        self.activation: Activation = settled_activation(
            explainer.activation, maps.facts.activation, self.classes.width
        )
        self._of_scores = maps.facts.note
        self._names = tuple(self.classes.all_names())
        self.under_way = 0  # touched by the event loop alone
        self._reading = 0
        self._ready: deque[PreparedJob] = deque()
        self._change = threading.Condition()
        self._closing = False
        self._threads: list[threading.Thread] = []
        self._pool: ThreadPoolExecutor | None = None

    def start(self) -> None:
        """Start the threads."""
        self._closing = False
        self._pool = ThreadPoolExecutor(self.settings.workers, "camlucida-pictures")
        # PyTorch shares one batch out among the processors itself.
        count = self.settings.workers if self._every_class else self.settings.threads or 1
        self._threads = [threading.Thread(target=self._run_batches, name=f"camlucida-model-{i}") for i in range(count)]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Take no more requests, finish those under way, and end the threads."""
        with self._change:
            self._closing = True
            self._change.notify_all()
        for thread in self._threads:
            thread.join()
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def check_free(self) -> None:
        """Refuse if no more requests can be taken.

        Raises:
            ProblemError: 503.
        """
        if self._pool is None or self._closing:
            raise ProblemError(503, "the server is shutting down; try again later", RETRY)
        if self.under_way >= self.settings.queue:
            raise ProblemError(503, FULL, RETRY)

    def submit(self, body: bytes, boundary: str) -> Job:
        """Begin with a request; called in the event loop. The job's future will have the JSON, or a ProblemError.

        Raises:
            ProblemError: 503, there are too many already.
        """
        self.check_free()
        assert self._pool is not None
        loop = asyncio.get_running_loop()
        job = Job(body, boundary, loop, loop.create_future())
        self.under_way += 1
        with self._change:
            self._reading += 1
        self._pool.submit(self._read, job)
        return job

    def _finish(self, job: Job, result: bytes | ProblemError | None) -> None:
        """Every job comes here once, from any thread; None: nobody waits for it any more."""

        def settle() -> None:
            self.under_way -= 1
            if job.future.done():
                return
            if isinstance(result, bytes):
                job.future.set_result(result)
            else:
                job.future.set_exception(result or ProblemError(503, FULL, RETRY))
                job.future.exception()  # whoever waited may be gone: that is no mistake of theirs

        job.loop.call_soon_threadsafe(settle)

    def _read(self, job: Job) -> None:
        result = None if job.abandoned else _attempt("reading a request", self._prepared, job)
        job.body = b""
        with self._change:
            self._reading -= 1
            if isinstance(result, PreparedJob):
                self._ready.append(result)
            self._change.notify_all() if self._closing else self._change.notify()
        if not isinstance(result, PreparedJob):
            self._finish(job, result)

    def _prepared(self, job: Job) -> PreparedJob:
        request = parse_request(job.body, job.boundary, self.classes)
        check_pixels(request.image, self.settings.max_pixels)
        try:
            picture = read(request.image)
        except ImageError as error:
            raise ProblemError(422, f"image: {str(error).removeprefix('bytes: ')}") from None
        values, view = self.explainer.preprocess(picture.pixels)
        return PreparedJob(job, replace(request, image=b""), values, view, picture.note)

    def _run_batches(self) -> None:
        while batch := self._next_batch():
            self._on_batch(len(batch))
            self._run(batch)

    def _next_batch(self) -> list[PreparedJob]:
        """Up to a batch of pictures; none when all is done."""
        most = self.settings.batch
        with self._change:
            while True:
                while not self._ready:
                    if self._closing and not self._reading:
                        return []
                    self._change.wait()
                until = time.monotonic() + self.settings.wait
                while len(self._ready) < most and self._reading and (left := until - time.monotonic()) > 0:
                    self._change.wait(left)
                if self._ready:  # another thread may have taken them
                    return [self._ready.popleft() for _ in range(min(most, len(self._ready)))]

    def _run(self, batch: Sequence[PreparedJob]) -> None:
        """Run the model on pictures, and finish their jobs whatever happens."""
        groups: dict[RequestedClasses, list[PreparedJob]] = {}
        for prepared in batch:
            if prepared.job.abandoned:
                self._finish(prepared.job, None)
            else:
                groups.setdefault("all" if self._every_class else prepared.request.classes, []).append(prepared)
        assert self._pool is not None
        for classes, group in groups.items():
            maps = _attempt("the model", self._explain, group, classes)
            for i, prepared in enumerate(group):
                if isinstance(maps, ProblemError):  # the thread goes on: the next batch may be well
                    self._finish(prepared.job, maps)
                else:
                    self._pool.submit(self._write, prepared, *maps, i)

    def _explain(self, group: Sequence[PreparedJob], classes: RequestedClasses) -> tuple[MapBatch, NDArray[np.float32]]:
        values = np.stack([prepared.values for prepared in group])
        ids_or_count = list(classes) if isinstance(classes, tuple) else classes
        maps = self.explainer.runner.explain(values, ids_or_count, self.explainer.class_names)
        return maps, residuals(maps)

    def _write(self, prepared: PreparedJob, maps: MapBatch, residual: NDArray[np.float32], i: int) -> None:
        job = prepared.job
        self._finish(job, None if job.abandoned else _attempt("an answer", self._answer, prepared, maps, residual, i))

    def _answer(self, prepared: PreparedJob, maps: MapBatch, residual: NDArray[np.float32], i: int) -> bytes:
        columns = self._columns(prepared.request.classes, maps.scores[i])
        if not (np.isfinite(maps.maps[i, columns]).all() and np.isfinite(maps.logits[i]).all()):
            raise ProblemError(500, "the model's map of this picture is not finite; look for an overflow in the model")
        model, ids = self.explainer.model, maps.targets.ids[i, columns]
        note = "; ".join(filter(None, (model.picture_note, self._of_scores, prepared.note)))
        explanation = Explanation(
            maps.logits[i][None], ids[None], maps.scores[i, columns][None], maps.maps[i, columns][None],
            maps.bias[i, columns][None], residual[i, columns][None], (tuple(self._names[k] for k in ids),),
            (prepared.view,), origin=Origin(model.name, activation=self.activation, note=note),
        )  # fmt: skip
        return answer_json(explanation, prepared.request)

    def _columns(self, classes: RequestedClasses, scores: NDArray[np.float32]) -> NDArray[np.intp] | slice:
        """Which of the explained classes were asked for."""
        if classes == "all" or not self._every_class:
            return slice(None)
        if isinstance(classes, int):
            return np.argsort(-scores, kind="stable")[:classes]
        return np.array(classes, np.intp)


def _attempt(what: str, step: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | ProblemError:
    """What a step gives, or the problem that the client gets."""
    try:
        return step(*args, **kwargs)
    except ProblemError as problem:
        return problem
    except Exception:
        logger.exception("%s failed", what)
        return ProblemError(500, UNEXPECTED)
