"""Seeds, private caches and the folders of real data."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # several processes of tests share the cores

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def private_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Keep caches out of the home folder and the hubs out of reach."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path_factory.mktemp("torch_home")))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path_factory.mktemp("hf_cache")))
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    monkeypatch.delenv("TLCLI_DEBUG", raising=False)


@pytest.fixture(autouse=True)
def tiny_numbers() -> Iterator[None]:
    """Take back what a run on the CPU does to the whole process; hypothesis wants all floats."""
    yield
    if torch := sys.modules.get("torch"):
        torch.set_flush_denormal(False)


@pytest.fixture(autouse=True, scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One cache of sample data for the whole session."""
    folder = tmp_path_factory.mktemp("tlcli_cache")
    os.environ["TLCLI_CACHE_DIR"] = str(folder)
    yield folder
    del os.environ["TLCLI_CACHE_DIR"]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real photos, where this machine has them (see CONTRIBUTING in docs/)."""
    folder = Path(os.environ.get("TLCLI_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}: set TLCLI_TEST_DATA")
    return folder


@pytest.fixture(scope="session")
def shared_weights(shared_data: Path) -> Path:
    """Real pretrained weights beside the real photos."""
    folder = shared_data.parent / "weights"
    if not folder.is_dir():
        pytest.skip(f"no real weights at {folder}: set TLCLI_TEST_DATA")
    return folder
