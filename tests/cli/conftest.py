"""Commands as a shell sees them, without a process of their own where none is needed."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from toy import make_split_folders
from typer.testing import CliRunner, Result

from tlcli.cli.app import app

Invoke = Callable[..., Result]


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def tlcli(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Invoke:
    """Run a command in an empty folder; stdout and stderr are kept apart."""
    monkeypatch.chdir(tmp_path)

    def invoke(*words: object, **environment: str) -> Result:
        return CliRunner().invoke(
            app, [str(word) for word in words], env={"COLUMNS": "100", **environment}
        )

    return invoke


@pytest.fixture
def shell(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a line of bash in an empty folder, in which `tlcli` is this very package."""

    def run(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", f'tlcli() {{ "{sys.executable}" -m tlcli "$@"; }}; {line}'],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "", **environment},
            timeout=120,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cli_photos")
    return make_split_folders(root, counts={"train": 3, "val": 2})
