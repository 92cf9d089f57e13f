"""What betastar does on one GPU: right, how fast, how much memory. One card of 80 GB, at most eight minutes.

    python benchmarks/gpu_check.py --wheels gpu-wheels        # on the GPU machine; `make gpu-wheels` collects them
    python benchmarks/gpu_check.py --tiny                     # every part on the CPU, in a minute; numbers mean nothing

The parts run in the order of their value, each in a process of its own with its own limit. Every measurement is on the
disk before the next one begins, and the table is written anew after each part: a run that is cut loses only what it has
not measured. A package that is missing costs the measurements that need it and no others. betastar need not be
installed: it is taken from the checkout that this file is in.

Writes into --out: `gpu_check.md` (the table), `measurements.jsonl` (the same, one record a line), `log.txt` (what the
parts printed). Exit code 1 if a part failed or did not deliver what it promises, 0 otherwise.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parent / "src"
sys.path[:0] = [str(HERE)]

from gpu_parts.check import STATE, Check, append, records, table  # noqa: E402

TABLE, LOG = "gpu_check.md", "log.txt"
LACKING = 3  # exit code of a part that misses a package
LEAST = 8.0  # seconds: with less, a part is not begun


class Part(NamedTuple):
    """A module of `gpu_parts` and the seconds after which it is killed."""

    name: str
    seconds: float
    title: str


PARTS = (
    Part("rates", 40, "versions, and what this card can do at best"),
    Part("attention", 50, "attention backends at lengths not seen before, and the NaN case"),
    Part(
        "parity",
        75,
        "bank against PEFT, sampled against read log-probabilities, the head's slope (Qwen3-0.6B geometry)",
    ),
    Part("decoding", 150, "sampling at Qwen3-14B geometry, against `transformers.generate` with padding"),
    Part("training", 80, "one DPO piece of 8 192 tokens at Qwen3-14B geometry"),
    Part("micro", 130, "`betastar run micro`, shortened: killed and resumed, and against the CPU"),
    Part("real", 100, "a real small model (GGUF), every stage"),
    Part("suite", 120, "the fast tests of betastar.models on this device"),
)


@dataclass
class Options:
    """`path` are folders from which the parts import before all others."""

    out: Path
    tiny: bool = False
    minutes: float = 8.0
    gguf: tuple[Path, ...] = ()
    path: list[str] = field(default_factory=list)


class Running(NamedTuple):
    """A part's process. It has imported what it needs, or is about to, and waits for a line with its deadline."""

    part: Part
    process: subprocess.Popen[bytes]
    log: Path


def check(parts: Sequence[Part], options: Options) -> bool:
    """Run the parts; whether all that ran delivered what they promise."""
    options.out.mkdir(parents=True, exist_ok=True)
    for name in (TABLE, LOG, "measurements.jsonl"):
        (options.out / name).unlink(missing_ok=True)
    ends, good = time.time() + 60 * options.minutes, True
    write_table(parts, options)
    ready: Running | None = None
    with tempfile.TemporaryDirectory(prefix="gpu_check") as scratch:
        try:
            for i, part in enumerate(parts):
                left = ends - time.time()
                if left < LEAST:
                    append(options.out, state(part, "not run: no time left"))
                    continue
                running = ready or start(part, options, Path(scratch))
                ready = None
                began = time.time()
                tell(running, min(ends, began + part.seconds))
                # The next one imports torch and transformers meanwhile; it touches the device only when it is told.
                if i + 1 < len(parts):
                    ready = start(parts[i + 1], options, Path(scratch))
                said = wait(running, min(left, part.seconds))
                append(options.out, state(part, f"{said} after {time.time() - began:.0f} s"))
                good &= not said.startswith("**")
                with (options.out / LOG).open("ab") as log:
                    log.write(f"\n===== {part.name} =====\n".encode() + running.log.read_bytes())
                write_table(parts, options)
                print(f"{part.name}: {said}, {time.time() - began:.0f} s", flush=True)
        finally:
            if ready is not None:
                stop(ready.process)
    write_table(parts, options)
    return good


def state(part: Part, text: str) -> dict[str, str]:
    return {"part": part.name, "name": STATE, "value": text}


def start(part: Part, options: Options, scratch: Path) -> Running:
    """A process for one part, in a session of its own so that whatever it starts can be ended with it."""
    work = scratch / part.name
    work.mkdir()
    log = scratch / f"{part.name}.log"
    paths = [*options.path, str(SOURCE), os.environ.get("PYTHONPATH", "")]
    command = [
        *(sys.executable, str(Path(__file__).resolve()), "--part", part.name),
        *("--out", str(options.out.resolve()), "--work", str(work)),
        *(["--tiny"] if options.tiny else []),
        *(["--gguf", *(str(path.resolve()) for path in options.gguf)] if options.gguf else []),
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONUNBUFFERED": "1"}
    if options.tiny:  # on cores that others use, too: one thread that does not spin while it waits
        environment = {"OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "1000"} | environment
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
    return Running(part, process, log)


def tell(running: Running, ends: float) -> None:
    """Let a part begin."""
    assert running.process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it has died already, as its log will say
        running.process.stdin.write(f"{ends}\n".encode())
        running.process.stdin.close()


def wait(running: Running, seconds: float) -> str:
    """How a part ended."""
    try:
        code = running.process.wait(seconds)
    except subprocess.TimeoutExpired:
        return "**killed at its limit**"
    finally:
        stop(running.process)
    if code == 0:
        return "done"
    if code == LACKING:
        return "not run: a package is missing"
    lines = running.log.read_text(errors="replace").strip().splitlines() or [f"exit code {code}"]
    return f"**failed** ({lines[-1][:300]})"


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a part and all that it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def write_table(parts: Sequence[Part], options: Options) -> None:
    heading = f"GPU check, {time.strftime('%Y-%m-%d')}"
    heading += " (tiny sizes: these numbers mean nothing)" if options.tiny else ""
    text = table(list(records(options.out)), {part.name: part.title for part in parts}, heading)
    temporary = options.out / f".{TABLE}"
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, options.out / TABLE)


def one_part(options: argparse.Namespace) -> int:
    """The other end: this process is a part. It loads its modules, waits to be told its deadline, and begins."""
    module, missing = None, ""
    try:
        module = importlib.import_module(f"gpu_parts.{options.part}")
    except ModuleNotFoundError as error:
        missing = package_of(error)
    line = sys.stdin.readline()
    if not line:  # the runner has ended
        return 1
    device = "cpu" if options.tiny else "cuda"
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            print(f"torch {torch.__version__} (CUDA {torch.version.cuda}) finds no GPU that it can use here")
            return 1
    check = Check(options.part, options.out, options.work, device, options.tiny, float(line), tuple(options.gguf or ()))
    if module is not None:
        try:
            module.run(check)
        except ModuleNotFoundError as error:
            missing = package_of(error)
    if missing:
        check.record("not measured", f"{missing} is not installed", case="what needs it in this part")
        return LACKING
    mine = {row["name"] for row in records(options.out) if row["part"] == options.part}
    assert module is not None
    if "not measured" not in mine and (undelivered := set(module.DELIVERS) - mine):
        print(f"did not deliver {', '.join(sorted(undelivered))}")
        return 1
    return 0


def package_of(error: ModuleNotFoundError) -> str:
    """The package that is missing. Raises the error again where it is ours."""
    name = (error.name or "").partition(".")[0]
    if name in ("", "betastar", "gpu_parts"):
        raise error
    return error.name or ""


def unpack(wheels: Path, target: Path) -> None:
    """Wheels as a folder to import from. What is built for another Python is left out."""
    version = f"{sys.version_info.major}{sys.version_info.minor}"
    for wheel in sorted(wheels.glob("*.whl")):
        tags = set(wheel.stem.split("-")[-3].split("."))
        if tags & {"py3", f"py{version}", f"cp{version}"}:
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(target)
        else:
            print(f"{wheel.name}: for another Python, left out")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    names = [part.name for part in PARTS]
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT") or "gpu_check"), help="where results go")
    parser.add_argument("--tiny", action="store_true", help="every part on the CPU, with sizes that mean nothing")
    parser.add_argument("--only", help=f"parts, with commas, in the order in which they run: {', '.join(names)}")
    parser.add_argument("--minutes", type=float, default=8.0, help="when the whole run ends (default 8)")
    parser.add_argument("--wheels", type=Path, help="folder of wheels that this machine lacks (make gpu-wheels)")
    parser.add_argument("--gguf", type=Path, nargs="+", help="a small GGUF model, in one file or several to be joined")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part:
        return one_part(given)
    chosen = given.only.split(",") if given.only else names
    if unknown := sorted(set(chosen) - set(names)):
        parser.error(f"--only: there is no part {', '.join(unknown)}; choose from {', '.join(names)}")
    for path in [*(given.gguf or ()), *([given.wheels] if given.wheels else [])]:
        if not path.exists():
            parser.error(f"{path}: no such file or folder; give the path of one")
    if not given.tiny and shutil.which("nvidia-smi") is None and not Path("/dev/nvidia0").exists():
        parser.error("there is no NVIDIA GPU here; --tiny tries the script without one")
    with tempfile.TemporaryDirectory(prefix="gpu_wheels") as folder:
        if given.wheels:
            unpack(given.wheels, Path(folder))
        options = Options(
            given.out, given.tiny, given.minutes, tuple(given.gguf or ()), [folder] if given.wheels else []
        )
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the part in hand is ended, too
        good = check([part for name in chosen for part in PARTS if part.name == name], options)
    print((given.out / TABLE).read_text())
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
