"""Vega-Lite to SVG, PDF and PNG in a process of its own. The renderer is a JavaScript engine, which aborts its process
where memory runs out; here that ends one process that has nothing else to do, and becomes one sentence.

The same file is both ends: imported, it starts the process and asks it; run, it answers. It imports nothing from
betastar, so that the process starts fast and wherever it is asked from.
"""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from queue import Empty, SimpleQueue
from typing import Any, Concatenate, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
PATIENCE = 600.0
"""Seconds until a figure is given up; it takes a fraction of one."""
MOST = 3
"""Processes at once; each takes up to 250 MB."""


class RendererDied(Exception):
    """The process has ended; the text says how."""


class Renderer:
    """A process that draws, from now until `close`, or until this process ends."""

    def __init__(self) -> None:
        self._line, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", __file__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # an engine that aborts says much
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )

    def files(
        self,
        spec: Mapping[str, Any],
        config: Mapping[str, Any] | None = None,
        scale: float = 1.0,
        ppi: float | None = None,
    ) -> dict[str, bytes]:
        """A specification as "svg", "pdf" and "png"; the PNG has `scale` times as many pixels as the SVG has units, and
        says that an inch has `ppi` of those units. Raises RendererDied, and ValueError for a specification that is
        not one."""
        found = self._asked({"what": "files", "spec": spec, "config": config, "scale": scale, "ppi": ppi})
        return {name: base64.b64decode(content) for name, content in found.items()}

    def width(self, spec: Mapping[str, Any]) -> float:
        """Of the drawing of a specification, in its units."""
        return self._asked({"what": "width", "spec": spec})

    def bundle(self, snippet: str) -> str:
        """The JavaScript of Vega, Vega-Lite and Vega-Embed, followed by a snippet."""
        return self._asked({"what": "bundle", "snippet": snippet})

    def _asked(self, question: Mapping[str, Any]) -> Any:
        try:
            self._line.send_bytes(json.dumps(question).encode())
            if not self._line.poll(PATIENCE):
                self._process.kill()
            answer = json.loads(self._line.recv_bytes())
        except (EOFError, OSError) as error:
            raise RendererDied(_how(self._process.wait())) from error
        if "error" in answer:
            raise ValueError(answer["error"])
        return answer["is"]

    def close(self) -> None:
        """End the process, which has nothing to do."""
        self._line.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        self.kill()

    def kill(self) -> None:
        """End the process, whatever it does; who waits for its answer gets RendererDied."""
        self._process.kill()
        self._process.wait()


class Renderers:
    """As many processes that draw as there are cores, up to `MOST`, each started when it is needed. What they are
    asked is done in that order, and each answer is waited for by its `result()`."""

    def __init__(self) -> None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self._threads = ThreadPoolExecutor(min(cores, MOST), "renderer")
        self._idle: SimpleQueue[Renderer] = SimpleQueue()
        self._started: list[Renderer] = []
        self._closing = False
        self._bundles: dict[str, Future[str]] = {}

    def ask(self, method: Callable[Concatenate[Renderer, P], T], /, *given: P.args, **named: P.kwargs) -> Future[T]:
        """Call a method of a `Renderer`, as in `ask(Renderer.width, spec)`, as soon as one is free."""
        return self._threads.submit(self._call, lambda one: method(one, *given, **named))

    def bundle(self, snippet: str) -> Future[str]:
        """Asked for again, the one that was asked for before."""
        if snippet not in self._bundles:
            self._bundles[snippet] = self.ask(Renderer.bundle, snippet)
        return self._bundles[snippet]

    def _call(self, question: Callable[[Renderer], T]) -> T:
        try:
            one = self._idle.get_nowait()
        except Empty:
            one = Renderer()
            self._started.append(one)
            if self._closing:  # while it was started
                one.kill()
        try:
            return question(one)
        finally:
            self._idle.put(one)

    def close(self) -> None:
        """End the processes, those that are at work, too."""
        self._closing = True
        self._threads.shutdown(wait=False, cancel_futures=True)
        idle = [self._idle.get() for _ in range(self._idle.qsize())]
        for one in list(self._started):
            if one in idle:
                one.close()
            else:
                one.kill()
        self._threads.shutdown()


def _how(status: int) -> str:
    if status >= 0:
        return f"exit code {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"


def _answer(question: Mapping[str, Any]) -> Any:
    import vl_convert

    if question["what"] == "bundle":
        return vl_convert.javascript_bundle(question["snippet"])
    svg = vl_convert.vegalite_to_svg(json.dumps(question["spec"]), config=question.get("config"))
    if question["what"] == "width":
        found = re.search(r'<svg[^>]*? width="([\d.]+)"', svg)
        assert found is not None, "an SVG has a width"
        return float(found[1])
    files = {
        "svg": svg.encode(),
        "pdf": vl_convert.svg_to_pdf(svg),
        "png": vl_convert.svg_to_png(svg, scale=question["scale"], ppi=question["ppi"]),
    }
    return {name: base64.b64encode(content).decode() for name, content in files.items()}


def _serve(line: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for whoever asked, whose end ends this
    with suppress(EOFError, OSError):
        while True:
            question = json.loads(line.recv_bytes())
            try:
                answer = {"is": _answer(question)}
            except Exception as error:
                answer = {"error": " ".join(str(error).split())[:500]}
            line.send_bytes(json.dumps(answer).encode())


if __name__ == "__main__":
    _serve(Connection(int(sys.argv[1])))
