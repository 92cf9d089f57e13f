"""Whether the hub answers, without waiting long for one that does not."""

from __future__ import annotations

import os
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from importlib import import_module
from threading import Thread
from typing import Any, TypeVar

T = TypeVar("T")
U = TypeVar("U")

HUB_SECONDS = 3  # to wait for a sign of life


def in_background(work: Callable[[], T]) -> Future[T]:
    """The result of `work`, once it is there. The thread is a daemon, so that the program may end while it still waits
    for the network; those of an executor may not."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    Thread(target=run, daemon=True).start()
    return future


def within(future: Future[T], seconds: float, otherwise: U) -> T | U:
    """The result if it is there after so many seconds, else `otherwise`. Raises what the work raised."""
    done, _ = wait([future], timeout=max(seconds, 0))
    return future.result() if done else otherwise


def hub_address() -> str:
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co")


def hub_fault() -> str | None:
    """Why the hub cannot be reached; None if it answers."""
    try:
        request = urllib.request.Request(hub_address(), method="HEAD")
        urllib.request.urlopen(request, timeout=HUB_SECONDS).close()
    except urllib.error.HTTPError:
        pass  # it answers
    except (OSError, ValueError) as error:
        return str(getattr(error, "reason", error))
    return None


@contextmanager
def caches_only(switched_on: bool) -> Iterator[None]:
    """The hub's libraries in offline mode, so that none of them tries, times out and tries again. Their own switch is
    an environment variable that they read when they are imported, which may be long ago."""
    before = import_module("huggingface_hub.constants").HF_HUB_OFFLINE
    _set_offline(before or switched_on)
    try:
        yield
    finally:
        _set_offline(before)


def _set_offline(value: bool) -> None:
    constants: Any = import_module("huggingface_hub.constants")
    constants.HF_HUB_OFFLINE = value
    if "datasets" in sys.modules:  # it takes its own copy when it is imported
        config: Any = sys.modules["datasets"].config
        config.HF_HUB_OFFLINE = value
