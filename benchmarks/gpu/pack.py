"""Wheels as one small archive, without what a check on a GPU does not need: pack.py CACHE OUT.tar.xz NAME==VERSION ...

Unpacked, the archive is a folder for PYTHONPATH. It runs with any Python 3.11 or newer, without packages.
"""

from __future__ import annotations

import io
import lzma
import re
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

_DROPPED = re.compile("|".join((
    r"bitsandbytes/libbitsandbytes_(?!cpu|cuda130)",  # Other versions of CUDA, ROCm, XPU: 124 of 128 MB.
    r"botocore/data/(?!s3/|sts/|sso|signin|endpoints\.json|partitions\.json|sdk-default|_retry)",
    r"boto3/examples/",
    r"boto3/data/(?!s3/)",
    r"(unsloth/)?studio/", r"unsloth_cli/",
    r"(trl|datasets|peft|gguf|llguidance|pydantic)/tests?/",
    r".*/RECORD$",
)))
_SITE_PACKAGES = re.compile(r"^[^/]+\.data/(?:purelib|platlib)/")
_OTHER_DATA = re.compile(r"^[^/]+\.data/")


def find_wheel(cache: Path, pin: str) -> Path:
    """The wheel of `NAME==VERSION` in a folder.

    Raises:
        SystemExit: there is none, or there are several.
    """
    name, _, version = pin.partition("==")
    stem = f"{_canonical(name)}-{version}-"
    found = [path for path in cache.glob("*.whl") if _canonical_file(path.name).startswith(stem)]
    if len(found) != 1:
        sys.exit(f"{pin}: {len(found)} wheels in {cache}")
    return found[0]


def pack(wheels: Sequence[Path], archive: Path) -> int:
    """Write the files of wheels, as they stand in site-packages, into an archive; their size in bytes."""
    size = 0
    with lzma.open(archive, "wb", preset=6) as packed, tarfile.open(fileobj=packed, mode="w|") as tar:
        for wheel in wheels:
            with zipfile.ZipFile(wheel) as files:
                for entry in files.infolist():
                    target = _SITE_PACKAGES.sub("", entry.filename)
                    if entry.is_dir() or _DROPPED.match(target) or _OTHER_DATA.match(target):
                        continue
                    content = files.read(entry)
                    info = tarfile.TarInfo(target)
                    info.size, info.mode = len(content), 0o755 if target.endswith(".so") else 0o644
                    size += len(content)
                    tar.addfile(info, io.BytesIO(content))
    return size


def _canonical(name: str) -> str:
    return re.sub("[-_.]+", "_", name).lower()


def _canonical_file(name: str) -> str:
    first, _, rest = name.partition("-")
    return f"{_canonical(first)}-{rest}"


def main() -> None:
    """Pack the wheels that the arguments name, and say what came of it."""
    cache, archive, pins = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
    size = pack([find_wheel(cache, pin) for pin in pins], archive)
    packed = archive.stat().st_size
    print(f"{archive.name}: {len(pins)} packages, {size / 2**20:.1f} MiB, packed {packed / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
