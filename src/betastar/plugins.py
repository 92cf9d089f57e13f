"""A user's own Python: a function in a file or behind an entry point of an installed package."""

from __future__ import annotations

import hashlib
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from betastar.disk import file_digest
from betastar.errors import BetastarError


class Plugin(NamedTuple):
    """What a `setting` names: `path/to/file.py:function`, or an entry point of the `group`."""

    name: str
    group: str
    setting: str

    def load(self) -> Callable[..., Any]:
        """The function. Raises BetastarError where it is not there, or its module fails."""
        if ":" not in self.name:
            point = self._entry_point()
            with plainly(self.name):
                return point.load()
        path, name = self._file()
        function = getattr(self._module(path), name, None)
        if not callable(function):
            raise BetastarError(f"{path} has no function {name}; correct {self.setting}.")
        return function

    def digest(self) -> str:
        """SHA-256 of the file that defines the function, and for an entry point of its name and version too. Raises
        BetastarError where there is none."""
        if ":" in self.name:
            return file_digest(self._file()[0])
        point = self._entry_point()
        with plainly(self.name):
            point.load()
        source = inspect.getsourcefile(sys.modules[point.module])
        code = file_digest(Path(source)) if source else ""
        version = point.dist.version if point.dist else ""
        return hashlib.sha256(f"{point.value} {version} {code}".encode()).hexdigest()

    def _module(self, path: Path) -> ModuleType:
        """The file's module, under a name of its own that hides no other; the same file is executed once."""
        kind = self.group.replace(".", "_").removesuffix("s")
        name = f"{kind}_" + hashlib.sha256(f"{path.resolve()} {file_digest(path)}".encode()).hexdigest()[:16]
        if name not in sys.modules:
            module = ModuleType(name)
            module.__file__ = str(path)
            sys.modules[name] = module  # dataclasses in it look for it there
            try:
                with plainly(self.name):
                    exec(compile(path.read_bytes(), path, "exec"), vars(module))
            except BetastarError:
                del sys.modules[name]
                raise
        return sys.modules[name]

    def _file(self) -> tuple[Path, str]:
        text, _, name = self.name.rpartition(":")
        path = Path(text).expanduser()
        if not path.is_file():
            raise BetastarError(f"{path}: no such file; correct {self.setting} (relative paths start at {Path.cwd()}).")
        return path, name

    def _entry_point(self) -> EntryPoint:
        points = {point.name: point for point in entry_points(group=self.group)}
        if self.name not in points:
            installed = ", ".join(sorted(points)) or "none"
            raise BetastarError(
                f"{self.setting}: no installed package has an entry point {self.name} in the group {self.group} "
                f"(installed: {installed}); give path/to/file.py:function, or install the package."
            )
        return points[self.name]


@contextmanager
def plainly(what: str) -> Iterator[None]:
    """Turn an exception in the user's code `what` into one sentence with its type, message and line."""
    try:
        yield
    except BetastarError:
        raise
    except (Exception, SystemExit) as error:
        own = Path(what.rpartition(":")[0]).expanduser()
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if Path(f.filename) == own]
        where = f" (line {lines[-1]})" if lines else ""
        message = " ".join(str(error).split()) or "no message"
        raise BetastarError(f"{what} raised {type(error).__name__}{where}: {message}; correct it.") from error


def kind_of(value: object) -> str:
    """What a user's function returned, in words."""
    return f"an object of type {type(value).__name__}" if value is not None else "nothing"
