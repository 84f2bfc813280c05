"""One thread (see tests/engine), small photos, and runs that several tests look at."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from shapes import make_shape_table
from toy import make_split_folders

from recipes.feature_runs import MODELS, extract, make_noisy_folders, weight_file
from recipes.runs import finetune

SCHEDULE = "0:head,1:layer4,2:all"


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out half of the time of a small run; `scheduled_run` has its pictures."""
    for function in (
        "tlcli.results.evaluation_files.draw_confusion_matrix",
        "tlcli.results.multi_label_files.draw_precision_recall_curves",
        "tlcli.recipes.finetune.draw_training_curves",
        "tlcli.recipes.probing.draw_penalty_path",
        "tlcli.results.detection_files.draw_precision_recall",
        "tlcli.recipes.detection_judging.draw_galleries",
        "tlcli.recipes.detect_finetune.draw_training_curves",
    ):
        monkeypatch.setattr(function, lambda *_, **__: None)


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 train, 9 val and 6 test images of three classes."""
    root = tmp_path_factory.mktemp("photos")
    return make_split_folders(root, counts={"train": 4, "val": 3, "test": 2})


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of 24 pictures with any number of three shapes in each."""
    return make_shape_table(tmp_path_factory.mktemp("shapes"), 24)


@pytest.fixture(scope="session")
def resnet_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights to start from whose values are known."""
    path = tmp_path_factory.mktemp("weights") / "resnet.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(5)
        network = timm.create_model("test_resnet", pretrained=False)
    safetensors.torch.save_file(network.state_dict(), path)
    return path


@pytest.fixture(scope="session")
def scheduled_run(
    tmp_path_factory: pytest.TempPathFactory, photos: Path, resnet_file: Path
) -> Path:
    """Three epochs, one phase each, on a network with BatchNorm."""
    path = tmp_path_factory.mktemp("runs") / "scheduled"
    finetune(path, data=photos, weights=resnet_file, schedule=SCHEDULE, epochs=3)
    return path


@pytest.fixture(scope="session")
def timm_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Known weights of a ResNet, a ViT and an EfficientNet, by timm's names."""
    root = tmp_path_factory.mktemp("timm")
    return {name: weight_file(root / f"{name}.safetensors", name=name) for name in MODELS}


@pytest.fixture(scope="session")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 train, 36 val and 30 test images of three classes that overlap."""
    root = tmp_path_factory.mktemp("noisy")
    return make_noisy_folders(root, counts={"train": 20, "val": 12, "test": 10})


@pytest.fixture(scope="session")
def features(
    tmp_path_factory: pytest.TempPathFactory, noisy: Path, timm_files: dict[str, Path]
) -> Path:
    """Features of `noisy` by a ResNet with a linear head; for reading only."""
    path = tmp_path_factory.mktemp("features") / "resnet"
    extract(noisy, path, model="timm/test_resnet", weights=timm_files["test_resnet"])
    return path
