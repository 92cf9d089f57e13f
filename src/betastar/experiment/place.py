"""A store that machines without a shared disk have in common, in any file system that fsspec speaks: `s3://`, `gs://`,
`file://`, `memory://`.

Files of an artefact are uploaded under the name of their writer; its manifest is written last, names that writer, and
is the commit: what has no manifest is not there, and of two writers one manifest wins, whole. Files are verified by
their SHA-256 when they are downloaded.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any, TypeVar, final

from betastar.disk import file_digest, flush, sealed, unseal
from betastar.errors import BetastarError, InternalError

T = TypeVar("T")
MANIFEST = "manifest.json"
ATTEMPTS = 5
FIRST_WAIT = 0.5  # seconds, doubled after each failure
BEAT = 20.0  # seconds between signs of life of a driver
DEAD = 90.0  # seconds without one, after which a driver counts as dead


@final
class Place:
    """The folder `uri`. `wait`: seconds before the first failing call is tried again, then twice as many each time."""

    def __init__(
        self,
        uri: str,
        writer: str,
        say: Callable[[str], None] = lambda text: None,
        wait: float = FIRST_WAIT,
        options: Mapping[str, Any] | None = None,
    ):
        self.uri, self.writer, self.say, self.wait = uri.rstrip("/"), writer, say, wait
        protocol = uri.partition("://")[0] if "://" in uri else "file"
        local = {"auto_mkdir": True} if protocol in ("file", "local") else {}
        try:
            import fsspec

            self.fs, self.root = fsspec.core.url_to_fs(
                self.uri, use_listings_cache=False, skip_instance_cache=True, **local, **(options or {})
            )
        except ImportError as error:
            raise BetastarError(
                f"{protocol}:// needs the package {error.name or protocol}",
                where="store",
                remedy="pip install 'betastar[ray]'; for gs:// also gcsfs",
            ) from None
        except ValueError as error:
            raise BetastarError(
                f"{uri} is not an address of a store ({error})", where="store", remedy="write s3://BUCKET/PATH"
            ) from None

    def check(self) -> None:
        """Raises BetastarError unless one can write here and read it back."""
        name = f"{self.root}/.{self.writer}.try"
        self._tried(lambda: self.fs.pipe_file(name, b"ok"))
        self._tried(lambda: self.fs.cat_file(name))
        self._tried(lambda: self.fs.rm_file(name))

    def keys(self, stage: str) -> list[str]:
        """Names of the artefacts of a stage, finished or not."""
        return self._names(f"store/{stage}")

    def manifest(self, path: str) -> dict[str, Any] | None:
        """The manifest of a folder; None if nothing whole is there."""
        data = self.read(f"{path}/{MANIFEST}")
        if data is None:
            return None
        try:
            return unseal(data)
        except ValueError:
            self._set_aside(path, f"{MANIFEST} has changed")
            return None

    def push(self, path: str, folder: Path, manifest: Mapping[str, Any]) -> bool:
        """Upload the files that a manifest names, then the manifest. False, with nothing changed, if a whole one is
        there already."""
        if self.manifest(path) is not None:
            return False
        self._upload(path, folder, manifest)
        return True

    def replace(self, path: str, folder: Path, manifest: Mapping[str, Any]) -> None:
        """The same, in place of what is there."""
        before = self.manifest(path)
        self._upload(path, folder, manifest)
        if before is not None and before["at"] != self._at(manifest):
            self._removed(f"{path}/{before['at']}")

    def _upload(self, path: str, folder: Path, manifest: Mapping[str, Any]) -> None:
        at = self._at(manifest)
        for name in manifest["files"]:
            self._tried(lambda name=name: self.fs.put_file(str(folder / name), f"{self.root}/{path}/{at}/{name}"))
        self.write(f"{path}/{MANIFEST}", sealed({**manifest, "at": at}))

    def _at(self, manifest: Mapping[str, Any]) -> str:
        return f"{self.writer}-{manifest['step']}" if "step" in manifest else self.writer

    def pull(self, path: str, folder: Path) -> bool:
        """Download a folder whole, or not at all; False if nothing whole is there. What is damaged is set aside."""
        manifest = self.manifest(path)
        if manifest is None:
            return False
        temporary = folder.with_name(f".{folder.name}.{self.writer}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            for name, expected in manifest["files"].items():
                target = temporary / name
                target.parent.mkdir(parents=True, exist_ok=True)
                if not self._downloaded(f"{path}/{manifest['at']}/{name}", target, expected["sha256"]):
                    self._set_aside(path, f"{name} has changed")
                    return False
            temporary.mkdir(parents=True, exist_ok=True)
            (temporary / MANIFEST).write_bytes(sealed({k: v for k, v in manifest.items() if k != "seal"}))
            for file in [*temporary.rglob("*"), temporary]:
                flush(file)
            with suppress(OSError):  # another process of this machine was faster
                os.replace(temporary, folder)
            return folder.is_dir()
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _downloaded(self, path: str, target: Path, digest: str) -> bool:
        """Whether the file arrived as it was uploaded; one that did not is asked for twice."""
        for _ in range(2):
            try:
                self._tried(lambda: self.fs.get_file(f"{self.root}/{path}", str(target)))
            except FileNotFoundError:
                return False
            if file_digest(target) == digest:
                return True
        return False

    def _set_aside(self, path: str, reason: str) -> None:
        self.say(f"{self.uri}/{path}: damaged ({reason}); set aside and rebuilt.")
        aside = f"{self.root}/{path}/.damaged-{time.time_ns()}.json"
        with suppress(FileNotFoundError):
            self._tried(lambda: self.fs.mv(f"{self.root}/{path}/{MANIFEST}", aside))

    def read(self, path: str) -> bytes | None:
        """A small file; None if it is not there."""
        try:
            return self._tried(lambda: self.fs.cat_file(f"{self.root}/{path}"))
        except FileNotFoundError:
            return None

    def write(self, path: str, data: bytes) -> None:
        """Replace a small file in one step."""
        target = f"{self.root}/{path}"
        if "file" not in self.fs.protocol:  # an object appears whole
            self._tried(lambda: self.fs.pipe_file(target, data))
            return
        temporary = Path(target).with_name(f".{Path(target).name}.{self.writer}.tmp")
        self._tried(lambda: self.fs.pipe_file(str(temporary), data))
        self._tried(lambda: os.replace(temporary, target))

    def folders(self, path: str) -> list[str]:
        """Names in a folder."""
        return self._names(path)

    def remove(self, path: str) -> None:
        """Remove a folder, its manifest first."""
        with suppress(FileNotFoundError):
            self._tried(lambda: self.fs.rm_file(f"{self.root}/{path}/{MANIFEST}"))
        self._removed(path)

    def _removed(self, path: str) -> None:
        with suppress(FileNotFoundError):
            self._tried(lambda: self.fs.rm(f"{self.root}/{path}", recursive=True))

    def _names(self, path: str) -> list[str]:
        try:
            found = self._tried(lambda: self.fs.ls(f"{self.root}/{path}", detail=False))
        except FileNotFoundError:
            return []
        names = {str(name).rstrip("/").rpartition("/")[2] for name in found}
        return sorted(name for name in names if not name.startswith("."))

    def _tried(self, call: Callable[[], T]) -> T:
        """Call until it succeeds, a few times: networks fail now and then. Raises BetastarError for a store without
        rights, InternalError for one that keeps failing, FileNotFoundError at once."""
        wait = self.wait
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return call()
            except FileNotFoundError:
                raise
            except PermissionError as error:
                raise BetastarError(
                    f"no right to read or write there ({_first(error)})",
                    where=self.uri,
                    remedy="check the credentials of this machine, or give another store",
                ) from error
            except Exception as error:
                if type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError"):
                    raise BetastarError(
                        "no credentials for this store", where=self.uri, remedy="set them up on every machine"
                    ) from error
                if attempt == ATTEMPTS:
                    raise InternalError(
                        f"the store failed {ATTEMPTS} times ({_first(error)})",
                        where=self.uri,
                        remedy="run the same again: finished work is kept",
                    ) from error
                self.say(f"{self.uri}: {_first(error)}; trying again in {wait:g} s.")
                time.sleep(wait)
                wait *= 2
        raise AssertionError  # the last attempt returns or raises

    @contextmanager
    def driven(self) -> Iterator[None]:
        """Hold the store's lease: one driver at a time. Raises BetastarError if another one shows signs of life."""
        holder = self.read("driver.json")
        if holder is not None:
            with suppress(ValueError):
                self._refuse_beside(json.loads(holder))
        self._beat()
        time.sleep(min(1.0, self.wait))  # of two that begin together, the last to write is the driver
        if (now := self.read("driver.json")) is not None and json.loads(now)["writer"] != self.writer:
            self._refuse_beside(json.loads(now))
        over = Event()

        def beat() -> None:
            while not over.wait(BEAT):
                with suppress(BetastarError):
                    self._beat()

        beating = Thread(target=beat, name="driver's lease", daemon=True)
        beating.start()
        try:
            yield
        finally:
            over.set()
            beating.join()
            with suppress(BetastarError, FileNotFoundError):
                self._tried(lambda: self.fs.rm_file(f"{self.root}/driver.json"))

    def _beat(self) -> None:
        self.write("driver.json", json.dumps({"writer": self.writer, "at": time.time()}).encode())

    def _refuse_beside(self, holder: Mapping[str, Any]) -> None:
        host, _, pid = str(holder["writer"]).rpartition("-")
        mine, _, me = self.writer.rpartition("-")
        here = host == mine
        gone = here and pid != me and not _exists(int(pid))
        if holder["writer"] == self.writer or gone or time.time() - holder["at"] > DEAD:
            return
        raise BetastarError(
            f"another betastar drives this store (process {pid} on {host})",
            where=self.uri,
            remedy=f"wait for it, or give another store; one that has died is forgotten after {DEAD:.0f} s",
        )


def _exists(pid: int) -> bool:
    import psutil

    return psutil.pid_exists(pid)


def _first(error: BaseException) -> str:
    """The first line of an error."""
    return f"{type(error).__name__}: {error}".strip().split("\n")[0].rstrip(".:")
