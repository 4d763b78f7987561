"""What every test process shares: eight CPU devices, quiet libraries, the folders of real data and of oracles."""

import os
from pathlib import Path

# Read once, when jax and TensorFlow are first imported, hence before any test module.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8".strip()
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

# A first call compiles, so a deadline would measure the compiler.
settings.register_profile("xtr", deadline=None)
settings.load_profile("xtr")


def _folder(variable: str, what: str) -> Path:
    value = os.environ.get(variable)
    if not value:
        pytest.skip(f"{variable} is not set: it names the folder of {what}")
    path = Path(value)
    if not path.is_dir():
        pytest.skip(f"{variable}={value} is not a folder: it should hold {what}")
    return path


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of the official data files, or a skip that says what is missing."""
    return _folder("XTR_DATA_DIR", "the official data files")


@pytest.fixture(scope="session")
def oracles() -> Path:
    """The folder of numbers recorded from the official implementations, or a skip that says what is missing."""
    return _folder("XTR_ORACLES", "recorded reference results")
