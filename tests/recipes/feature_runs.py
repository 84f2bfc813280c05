"""Extract features and solve heads on toy data, and compute by plain loops what must come out."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import safetensors.torch
import timm
import torch
from PIL import Image
from torch import Tensor, nn
from toy import CLASSES, CollectedTalk

from tlcli.backbones.timm_source import TimmSource
from tlcli.config import ExtractConfig, ProbeConfig
from tlcli.data.preprocessing import Preprocessing
from tlcli.data.transforms import eval_transform, normalize
from tlcli.recipes import extract_features, probe
from tlcli.recipes.feature_folder import FeatureFolder, open_features

MODELS = ("test_resnet", "test_vit", "test_efficientnet")
RESNET: dict[str, Any] = {"model": "timm/test_resnet", "weights": "none"}
MACHINE: dict[str, Any] = {"device": "cpu", "num_workers": 2, "offline": True}
Floats = npt.NDArray[np.float64]


def extract_config(data: Path, output: Path | None, **options: Any) -> ExtractConfig:
    values = {**RESNET, **MACHINE, "data": data, "output": output, **options}
    plain = {k: str(v) if isinstance(v, Path) else v for k, v in values.items()}
    return ExtractConfig.from_options(plain)


def extract(data: Path, output: Path | None, **options: Any) -> tuple[Any, CollectedTalk]:
    """Extract as `tlcli extract-features` would; return what `--json` prints and what was said."""
    talk = CollectedTalk()
    return extract_features.run(extract_config(data, output, **options), talk=talk), talk


def solve(store: Path | str, **options: Any) -> tuple[dict[str, Any], CollectedTalk]:
    """Solve heads as `tlcli probe` would; return what `--json` prints and what was said."""
    talk = CollectedTalk()
    values = {"store": store, **options}
    plain = {k: str(v) if isinstance(v, Path) else v for k, v in values.items()}
    return probe.run(ProbeConfig.from_options(plain), talk=talk), talk


def cache_counts(summary: dict[str, Any]) -> tuple[int, int]:
    cache = summary["trunk_cache"]
    return cache["hits"], cache["misses"]


def store_bytes(path: Path) -> dict[str, bytes]:
    """Return what must not depend on who computed it, and any file that was forgotten."""
    files = [path / "manifest.json", path / "items.parquet", *(path / "shards").iterdir()]
    hidden = [file for file in path.iterdir() if file.name.startswith(".")]
    return {
        file.relative_to(path).as_posix(): file.read_bytes()
        for file in [*files, *hidden]
        if file.exists()
    }


def all_bytes(path: Path) -> dict[str, bytes]:
    return {
        file.relative_to(path).as_posix(): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file()
    }


def stored(folder: FeatureFolder | Path) -> dict[tuple[str, int], dict[str, Tensor]]:
    """Return the tensors of every row by path and view, in the order of the items."""
    opened = folder if isinstance(folder, FeatureFolder) else open_features(str(folder))
    items = opened.items
    tensors = opened.store.rows(items[["shard", "row"]].to_numpy(), names=opened.names).load()
    keys = zip(items["path"], items["view"].astype(int), strict=True)
    return {
        key: {name: values[number] for name, values in tensors.items()}
        for number, key in enumerate(keys)
    }


def embeddings(folder: Path) -> dict[str, Tensor]:
    """Return the embedding of the plain view of every image as float32, by path."""
    return {
        path: row["embedding"].float() for (path, view), row in stored(folder).items() if view == -1
    }


def weight_file(path: Path, *, name: str, seed: int = 5) -> Path:
    """Write weights to start from whose BatchNorms do something."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = timm.create_model(name, pretrained=False)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.running_mean, 0, 0.1)
                nn.init.uniform_(module.running_var, 0.5, 1.5)
                nn.init.uniform_(module.weight, 0.7, 1.2)
                nn.init.normal_(module.bias, 0, 0.1)
    safetensors.torch.save_file(network.state_dict(), path)
    return path


def plain_network(name: str, weights: Path) -> nn.Module:
    """Return timm's own network in eval mode, built without tlcli."""
    network = timm.create_model(name, pretrained=False)
    network.load_state_dict(safetensors.torch.load_file(weights))
    return network.eval()


def preprocessing_of(name: str) -> Preprocessing:
    return TimmSource().preprocessing(name, tag=None)


def plain_input(path: Path, *, name: str) -> Tensor:
    """Return the normalised pixels (1, 3, H, W) that evaluation shows of an image."""
    wanted = preprocessing_of(name)
    with Image.open(path) as image:
        pixels = eval_transform(wanted)(image.convert("RGB"))
    return normalize(pixels[None], mean=wanted.mean, std=wanted.std)


def plain_embeddings(root: Path, paths: Sequence[str], *, name: str, weights: Path) -> Tensor:
    """Return the outputs of a network whose head is the identity, image by image."""
    network = plain_network(name, weights)
    network.reset_classifier(0)
    with torch.inference_mode():
        return torch.cat([network(plain_input(root / path, name=name)) for path in paths])


def part_of(folder: Path, split: str, *, views: bool = False) -> tuple[Floats, list[str]]:
    """Return all features of a split side by side in float64, and the label of each row."""
    opened = open_features(str(folder))
    items, rows = opened.items, list(stored(opened).values())
    chosen = (items["split"] == split) & ((items["view"] == -1) | views)
    vectors = [
        torch.cat([row[name].double().flatten() for name in opened.names]).numpy()
        for row, is_chosen in zip(rows, chosen, strict=True)
        if is_chosen
    ]
    return np.stack(vectors), items["label"][chosen].tolist()


def penalty_rows(run: Path) -> list[dict[str, str]]:
    with (run / "penalties.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def make_noisy_folders(root: Path, *, counts: dict[str, int], size: int = 24) -> Path:
    """Write `root/SPLIT/CLASS/N.png` whose classes overlap: nobody can get all of them right."""
    for number, (split, images) in enumerate(counts.items()):
        for label, name in enumerate(CLASSES):
            folder = root / split / name
            folder.mkdir(parents=True)
            for image in range(images):
                rng = np.random.default_rng((number, label, image))
                centre = np.full(3, 110.0) + 14 * np.eye(3)[label] + rng.normal(0, 10, 3)
                pixels = rng.normal(centre, 40, (size, size, 3))
                picture = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
                picture.save(folder / f"{image}.png")
    return root


def small_shards(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    """Cut stores into shards of so few rows that toy data fills several."""
    monkeypatch.setattr("tlcli.recipes.store_filling._SHARD_ROWS", rows)
