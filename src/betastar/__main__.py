"""The process of `betastar` and `python -m betastar`. Ctrl-C is handled before anything else is loaded: imports take
seconds, and an interrupt within one ends in a traceback, or in a library that swallows it."""

from __future__ import annotations

import _thread
import signal
import threading
from types import FrameType

INTERRUPTED = 130  # as a shell reports a program that Ctrl-C ended
MOMENT = 0.05  # seconds after which an interrupt that fell into an import is tried again
_waiting = threading.Event()  # set while there is such an interrupt


def main() -> None:
    """Run the command line; Ctrl-C is one line and exit code 130, whatever it meets."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where it is ignored, as under nohup
        signal.signal(signal.SIGINT, _interrupt)
    try:
        try:
            from betastar.cli import main as command_line

            command_line()
        finally:
            if _waiting.is_set():  # the command was over before the next try
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        from betastar.printing import say

        say("betastar: stopped", error=True)
        raise SystemExit(INTERRUPTED) from None


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, but not within an import: then as soon as that is over."""
    if not _is_importing(frame):
        _waiting.clear()
        raise KeyboardInterrupt
    _waiting.set()
    again = threading.Timer(MOMENT, _thread.interrupt_main)
    again.daemon = True
    again.start()


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


if __name__ == "__main__":
    main()
