"""xtr: cross-lingual transfer of intermediate-task training, measured as multilingual models grow."""

from pathlib import Path

__version__ = "0.1.0"

# `tasks/`, `launch/` and `gin/` are subpackages everywhere: a wheel holds them in this package, a checkout beside it.
if not (Path(__file__).parent / "tasks").is_dir():
    __path__.append(str(Path(__file__).parent.parent))
