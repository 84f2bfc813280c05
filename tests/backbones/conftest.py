"""Private caches of the two libraries, and a guard against sockets."""

import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import huggingface_hub
import pytest
import torch
import torch.hub
from safetensors.torch import load_file
from torchvision import models as zoo


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """The networks here are so small that more threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def hub_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Empty caches of torch.hub and of the Hugging Face hub, which reads its own only once."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)  # else TORCH_HOME is not asked
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    return tmp_path / "torch", tmp_path / "hf"


@pytest.fixture
def sockets_forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def cached_squeezenet(hub_folders: tuple[Path, Path], shared_weights: Path) -> Path:
    """torchvision's squeezenet1_1 where torch.hub would have stored it."""
    url = zoo.SqueezeNet1_1_Weights.IMAGENET1K_V1.url
    path = hub_folders[0] / "hub" / "checkpoints" / url.rpartition("/")[2]
    path.parent.mkdir(parents=True)
    torch.save(load_file(shared_weights / "torchvision_squeezenet1_1.safetensors"), path)
    return path


@pytest.fixture
def put_in_hub(hub_folders: tuple[Path, Path]) -> Callable[[str, Path], Path]:
    """Store a copy of a file as the Hugging Face hub's cache stores a downloaded one."""

    def put(name: str, file: Path) -> Path:
        repo = hub_folders[1] / f"models--timm--{name}"
        commit = "0123456789" * 4
        snapshot = repo / "snapshots" / commit
        snapshot.mkdir(parents=True)
        (repo / "refs").mkdir()
        (repo / "refs" / "main").write_text(commit)
        return Path(shutil.copy(file, snapshot / "model.safetensors"))

    return put


@pytest.fixture
def cached_lite0(put_in_hub: Callable[[str, Path], Path], shared_weights: Path) -> Path:
    """timm's tf_efficientnet_lite0 in the Hugging Face cache."""
    file = shared_weights / "timm_tf_efficientnet_lite0.safetensors"
    return put_in_hub("tf_efficientnet_lite0.in1k", file)
