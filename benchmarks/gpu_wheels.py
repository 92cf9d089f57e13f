"""Collect what `gpu_check.py` needs and a GPU machine may lack, as wheels in one folder: `make gpu-wheels`.

    python benchmarks/gpu_wheels.py --out gpu-wheels

The machine is a bare image with Python 3.12, torch for CUDA 13, transformers, peft and accelerate, and no network. All
versions are those of constraints.txt. bitsandbytes ships a library for every CUDA, ROCm and XPU there is, 43 MB; only
its Python files and one library are kept.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

CONSTRAINTS = Path(__file__).resolve().parents[1] / "constraints.txt"
MUST = ("pydantic", "pydantic_core", "annotated-types", "typing-inspection", "typing_extensions")
# For decoding from NF4; a GGUF model; the tests of the trl engine.
MAY = ("bitsandbytes", "gguf", "trl", "datasets", "dill", "multiprocess", "xxhash")
GLIBC = (5, 12, 17, 24, 26, 27, 28, 31, 34)  # manylinux_2_N: pip takes each by its own name
PLATFORMS = (
    *(f"manylinux_2_{n}_x86_64" for n in GLIBC),
    "manylinux2014_x86_64",
    "manylinux2010_x86_64",
    "manylinux1_x86_64",
)
CUDA = 130
LIBRARY = re.compile(r"bitsandbytes/lib.*?(?:_cuda(\d+))?\.so")


def pins(text: str) -> dict[str, str]:
    """Exact versions by name, as a constraints file has them."""
    return dict(re.findall(r"^([\w.-]+)==(\S+)$", text, re.MULTILINE))


def nearest_library(names: list[str], cuda: int) -> str:
    """Of bitsandbytes' files the CUDA library to keep: of this version, else the newest before it, else the oldest
    after it. Raises ValueError where there is none."""
    found = {int(match[1]): name for name in names if (match := LIBRARY.fullmatch(name)) and match[1]}
    if not found:
        raise ValueError("the wheel of bitsandbytes holds no CUDA library")
    earlier = [version for version in found if version <= cuda]
    return found[max(earlier) if earlier else min(found)]


def reduced(wheel: Path, cuda: int) -> str:
    """Leave only one library in bitsandbytes' wheel, in place; its name."""
    smaller = wheel.with_suffix(".tmp")
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(smaller, "w", zipfile.ZIP_DEFLATED) as target:
        kept = nearest_library(source.namelist(), cuda)
        dropped = {name for name in source.namelist() if LIBRARY.fullmatch(name) and name != kept}
        for entry in source.infolist():
            if entry.filename in dropped:
                continue
            content = source.read(entry)
            if entry.filename.endswith(".dist-info/RECORD"):
                lines = content.decode().splitlines(keepends=True)
                content = "".join(line for line in lines if line.split(",")[0] not in dropped).encode()
            target.writestr(entry, content)
    os.replace(smaller, wheel)
    return kept


def download(names: list[str], versions: dict[str, str], python: str, out: Path) -> None:
    """Fetch wheels without what they depend on. Ends with pip's own message where one cannot be had."""
    platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
    command = [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"),
        *("--python-version", python, "--implementation", "cp", *platforms, "--dest", str(out)),
        *(f"{name}=={versions[name]}" for name in names),
    ]
    if subprocess.run(command).returncode != 0:
        sys.exit("gpu_wheels: pip could not fetch all wheels, as it says above; check the network and constraints.txt")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument(
        "--out", type=Path, default=Path("gpu-wheels"), help="folder of the wheels (default gpu-wheels)"
    )
    parser.add_argument("--python", default="3.12", help="Python version of the GPU machine (default 3.12)")
    parser.add_argument("--cuda", type=int, default=CUDA, help="CUDA version there, 130 for 13.0 (default)")
    given = parser.parse_args()
    versions = pins(CONSTRAINTS.read_text())
    wanted = [name for name in (*MUST, *MAY) if name in versions]
    given.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=given.out) as fresh:
        download(wanted, versions, given.python, Path(fresh))
        for wheel in Path(fresh).glob("bitsandbytes-*.whl"):
            print(f"of bitsandbytes only {reduced(wheel, given.cuda)} is kept")
        for old in given.out.glob("*.whl"):  # of other versions
            old.unlink()
        for wheel in Path(fresh).glob("*.whl"):
            wheel.rename(given.out / wheel.name)
    total = 0
    for wheel in sorted(given.out.glob("*.whl"), key=lambda path: -path.stat().st_size):
        total += wheel.stat().st_size
        print(f"{wheel.stat().st_size / 1e6:8.2f} MB  {wheel.name}")
    print(f"{total / 1e6:8.2f} MB  in all, in {given.out}")
    for name in sorted({*MUST, *MAY} - set(wanted)):
        print(f"{name} is not in constraints.txt and was left out")


if __name__ == "__main__":
    main()
