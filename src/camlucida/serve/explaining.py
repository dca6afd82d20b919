"""Requests in, answers out: pictures are read in threads, collected into batches, explained, and written as JSON."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from camlucida.errors import ImageError, ServeError
from camlucida.explainer import Explainer
from camlucida.images.picture import read
from camlucida.images.preprocess import View
from camlucida.runners.onnx_maps import OnnxRunner
from camlucida.runners.runner import MapBatch, residuals
from camlucida.serve.answer import Row, answer
from camlucida.serve.ask import Ask, Asked, Names, check_pixels, parse
from camlucida.serve.body import RETRY
from camlucida.serve.problems import UNEXPECTED, ProblemError
from camlucida.serve.settings import Settings
from camlucida.targets import Activation, default_activation

logger = logging.getLogger("camlucida.serve")

FULL = "the server is busy; try again in a moment"


@dataclass(eq=False, slots=True)
class Ready:
    """A picture that waits for the model."""

    job: Job
    ask: Ask
    values: NDArray[np.float32]
    view: View
    note: str


@dataclass(eq=False, slots=True)
class Job:
    """One request on its way. Whoever waits for it may set ``gone``; then it is dropped at its next step."""

    body: bytes
    boundary: str
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[bytes]
    gone: bool = False


class Engine:
    """Threads that turn request bodies into answers.

    Bodies are parsed, decoded and preprocessed by ``settings.workers`` threads, which write the answers too; as many
    others each take up to ``settings.batch`` pictures and run the model on them. Nothing but bookkeeping happens in the
    event loop.

    Args:
        explainer: the prepared model; its pictures are two-dimensional.
        settings: how many, how long.
        ran: told the size of every batch.

    Raises:
        ServeError: the model's maps do not lie over pictures, or its file has those of the likeliest classes alone.
        CamlucidaError: the model fails on a blank picture.
    """

    def __init__(
        self, explainer: Explainer, settings: Settings, ran: Callable[[int], None] = lambda count: None
    ) -> None:
        self.explainer, self.settings, self._ran = explainer, settings, ran
        # An ONNX file computes the maps of all classes anyway, so pictures with different wishes share a run.
        self._everything = isinstance(explainer.runner, OnnxRunner)
        if isinstance(explainer.runner, OnnxRunner) and explainer.runner.top is not None:
            raise ServeError(
                f"{explainer.model.name}: has the maps of the likeliest {explainer.runner.top} classes alone, and "
                "requests may ask for any; export it again without --top"
            )
        blank = np.zeros((1, 3, *explainer.preprocess.size_hw), np.float32)
        made = explainer.runner.explain(blank, 1, explainer.class_names)
        if made.maps.ndim != 4:
            raise ServeError(f"{explainer.model.name}: its maps lie over no picture; the server takes pictures only")
        self.names = Names(made.logits.shape[1], explainer.class_names)
        self.grid_hw = made.maps.shape[2:]
        self.activation: Activation = (
            explainer.activation or made.facts.activation or default_activation(self.names.width)
        )
        self._all_names = tuple(self.names.all())
        self.under_way = 0  # touched by the event loop alone
        self._reading = 0
        self._ready: deque[Ready] = deque()
        self._change = threading.Condition()
        self._closing = False
        self._threads: list[threading.Thread] = []
        self._pool: ThreadPoolExecutor | None = None

    def start(self) -> None:
        """Start the threads."""
        self._closing = False
        self._pool = ThreadPoolExecutor(self.settings.workers, "camlucida-pictures")
        # PyTorch shares one batch out among the processors itself.
        at_once = self.settings.workers if self._everything else self.settings.threads or 1
        self._threads = [threading.Thread(target=self._serve, name=f"camlucida-model-{i}") for i in range(at_once)]
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
        """Begin with a request; called in the event loop.

        Args:
            body: all of it.
            boundary: of a multipart body; empty for JSON.

        Returns:
            Its job, whose future will have the answer's JSON, or a ProblemError.

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
        """Every job comes here once, from any thread."""

        def tell() -> None:
            self.under_way -= 1
            if job.future.done():
                return
            if isinstance(result, bytes):
                job.future.set_result(result)
            else:
                job.future.set_exception(result or ProblemError(503, FULL, RETRY))
                job.future.exception()  # whoever waited may be gone: that is no mistake of theirs

        job.loop.call_soon_threadsafe(tell)

    # --- reading ------------------------------------------------------------------------------------------------------

    def _read(self, job: Job) -> None:
        ready: Ready | None = None
        problem: ProblemError | None = None
        try:
            ready = None if job.gone else self._prepared(job)
        except ProblemError as error:
            problem = error
        except Exception:
            logger.exception("reading a request failed")
            problem = ProblemError(500, UNEXPECTED)
        job.body = b""
        with self._change:
            self._reading -= 1
            if ready is not None:
                self._ready.append(ready)
            self._change.notify_all() if self._closing else self._change.notify()
        if ready is None:
            self._finish(job, problem)

    def _prepared(self, job: Job) -> Ready:
        ask = parse(job.body, job.boundary, self.names)
        check_pixels(ask.image, self.settings.max_pixels)
        try:
            picture = read(ask.image)
        except ImageError as error:
            raise ProblemError(422, f"image: {str(error).removeprefix('bytes: ')}") from None
        values, view = self.explainer.preprocess(picture.pixels)
        return Ready(job, Ask(b"", ask.classes, ask.maps, ask.threshold), values, view, picture.note)

    # --- the model ----------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        while batch := self._next():
            self._ran(len(batch))
            self._run(batch)

    def _next(self) -> list[Ready]:
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

    def _run(self, batch: Sequence[Ready]) -> None:
        """Run the model on pictures, and finish their jobs whatever happens."""
        groups: dict[Asked, list[Ready]] = {}
        for one in batch:
            if one.job.gone:
                self._finish(one.job, None)
            else:
                groups.setdefault("all" if self._everything else one.ask.classes, []).append(one)
        assert self._pool is not None
        for asked, group in groups.items():
            try:
                values = np.stack([one.values for one in group])
                classes = list(asked) if isinstance(asked, tuple) else asked
                made = self.explainer.runner.explain(values, classes, self.explainer.class_names)
                residual = residuals(made)
            except Exception:  # the thread goes on: the next batch may be well
                logger.exception("the model failed")
                for one in group:
                    self._finish(one.job, ProblemError(500, UNEXPECTED))
                continue
            for i, one in enumerate(group):
                self._pool.submit(self._write, one, made, residual, i)

    # --- writing ------------------------------------------------------------------------------------------------------

    def _write(self, one: Ready, made: MapBatch, residual: NDArray[np.float32], i: int) -> None:
        result: bytes | ProblemError | None = None
        try:
            if not one.job.gone:
                result = self._answer(one, made, residual, i)
        except ProblemError as problem:
            result = problem
        except Exception:
            logger.exception("writing an answer failed")
            result = ProblemError(500, UNEXPECTED)
        self._finish(one.job, result)

    def _answer(self, one: Ready, made: MapBatch, residual: NDArray[np.float32], i: int) -> bytes:
        columns = self._columns(one.ask.classes, made.scores[i]) if self._everything else np.arange(made.maps.shape[1])
        ids = made.targets.ids[i, columns]
        row = Row(made.logits[i], ids, tuple(self._all_names[k] for k in ids), made.scores[i, columns],
                  made.maps[i, columns], made.bias[i, columns], residual[i, columns])  # fmt: skip
        model = self.explainer.model
        note = "; ".join(filter(None, (model.note, one.note)))
        return answer(row, one.view, one.ask, model=model.name, activation=self.activation, note=note)

    def _columns(self, asked: Asked, scores: NDArray[np.float32]) -> NDArray[np.intp]:
        """Which of all classes were asked for."""
        if asked == "all":
            return np.arange(len(scores))
        if isinstance(asked, int):
            return np.argsort(-scores, kind="stable")[:asked]
        return np.array(asked, np.intp)
