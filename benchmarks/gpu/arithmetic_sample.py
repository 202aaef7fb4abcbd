"""The sample of ReFT: its folder, and the module that makes its data and its model."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "deploy" / "samples"


def arithmetic() -> ModuleType:
    """`deploy/samples/arithmetic.py`, which is in no package."""
    name = "arithmetic"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, SAMPLES / f"{name}.py")
        if spec is None or spec.loader is None:
            raise ImportError(f"{SAMPLES} has no {name}.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]
