"""What a run of the check is: real or dry, its folders and its sizes. The environment carries it to every process."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from tempfile import gettempdir

GIB = 2**30
MIB = 2**20
DRY = "GPU_CHECK_DRY"
OUT = "GPU_CHECK_OUT"
WORK = "GPU_CHECK_WORK"
CAP = "GPU_CHECK_CAP_GIB"
MODEL, DATA, KINDS, ROLLOUTS = "GPU_CHECK_MODEL", "GPU_CHECK_DATA", "GPU_CHECK_CHAINS", "GPU_CHECK_ROLLOUTS"
CHAINS = ("program", "text")

CONTEXT_GIB = 0.55
"""Of an L4's memory this much goes to the driver, and is not the allocator's."""

SEED = 1
RANK, ALPHA, LEARNING_RATE = 8, 32, 1e-4
_SHARED_MEMORY = Path("/dev/shm")
_ROOM_FOR_A_7B = 26 * GIB


@dataclass(frozen=True)
class Shape:
    """Sizes of a random Mistral."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    key_value_heads: int
    vocabulary: int


@dataclass(frozen=True)
class Settings:
    """A run of the check.

    Attributes:
        dry: everything runs on the CPU with tiny shapes: it checks the check, and measures nothing.
        out: where findings, log and report go.
        work: where models lie while the check runs; in memory where there is room.
        cap_gib: the memory that training gets: what torch sees of a 24 GiB L4.
        model: the real model of `reft-real`: a GGUF file, or a folder of safetensors.
        data: the folder of its rows.
        chains: its kinds of chains of thought.
        rollouts: the roll-outs of all kinds together.
    """

    dry: bool
    out: Path
    work: Path
    cap_gib: float
    model: Path | None = None
    data: Path | None = None
    chains: tuple[str, ...] = CHAINS
    rollouts: int = 10_000

    @classmethod
    def from_environment(cls) -> Settings:
        """The settings that `to_environment` wrote, or the defaults."""
        dry = os.environ.get(DRY) == "1"
        temporary = Path(gettempdir())
        in_memory = not dry and _SHARED_MEMORY.is_dir() and shutil.disk_usage(_SHARED_MEMORY).free > _ROOM_FOR_A_7B
        work = _SHARED_MEMORY / "gpu-check" if in_memory else temporary / "gpu-check-work"
        return cls(dry, Path(os.environ.get(OUT) or temporary / "gpu-check-out"),
                   Path(os.environ.get(WORK) or work), float(os.environ.get(CAP) or 22.0),
                   _path(MODEL), _path(DATA), tuple((os.environ.get(KINDS) or " ".join(CHAINS)).split()),
                   int(os.environ.get(ROLLOUTS) or 10_000))

    def to_environment(self) -> dict[str, str]:
        """Variables that give another process the same settings."""
        return {DRY: str(int(self.dry)), OUT: str(self.out), WORK: str(self.work), CAP: str(self.cap_gib),
                MODEL: str(self.model or ""), DATA: str(self.data or ""), KINDS: " ".join(self.chains),
                ROLLOUTS: str(self.rollouts)}

    @property
    def batch(self) -> int:
        """Rows of a step."""
        return 4 if self.dry else 16

    @property
    def steps(self) -> int:
        """Steps of an arm; the first does not count."""
        return 2 if self.dry else 3

    @property
    def max_length(self) -> int:
        """The longest row in tokens."""
        return 96 if self.dry else 2048

    @property
    def mean_length(self) -> int:
        """Tokens of a row on average."""
        return 48 if self.dry else 1190

    @property
    def large(self) -> Shape:
        """The model of the arms: Mistral-7B's sizes."""
        return Shape(128, 256, 3, 4, 2, 512) if self.dry else Shape(4096, 14336, 32, 32, 8, 32000)

    @property
    def small(self) -> Shape:
        """The model of what needs no size: heads as wide as the large one's, few layers."""
        return Shape(128, 256, 2, 4, 2, 512) if self.dry else Shape(1024, 3584, 4, 8, 2, 32000)

    @property
    def large_bf16(self) -> Path:
        """The folder of the large model as it was made."""
        return self.work / "large-bf16"

    @property
    def large_nf4(self) -> Path:
        """The folder of the large model as nf4, which loads in seconds."""
        return self.work / "large-nf4"

    @property
    def small_bf16(self) -> Path:
        """The folder of the small model."""
        return self.work / "small"


def _path(variable: str) -> Path | None:
    written = os.environ.get(variable)
    return Path(written) if written else None
