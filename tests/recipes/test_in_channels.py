"""Runs on gray pictures and on pictures with transparency."""

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from toy import CLASSES, CollectedTalk

from recipes.feature_runs import cache_counts, embeddings, extract, solve
from recipes.runs import (
    evaluate,
    finetune,
    finetune_config,
    record_of,
    results_of,
    signal_at,
)
from tlcli.backbones.timm_source import TimmSource
from tlcli.data.transforms import eval_transform, normalize
from tlcli.errors import ConfigError, InterruptedRunError
from tlcli.models.saved_model import read_weights
from tlcli.recipes import finetune as finetune_recipe

NAME = "test_resnet"
FIRST = "conv1.0.weight"


def make_pictures(root: Path, *, mode: str, counts: dict[str, int]) -> Path:
    """Write `root/SPLIT/CLASS/N.png`: what tells the classes apart is the last channel alone."""
    for split, images in counts.items():
        for label, name in enumerate(CLASSES):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(images):
                rng = np.random.default_rng((len(split), label, number))
                last = rng.integers(60, 100, (24, 24)) + 60 * label
                pixels = np.full((24, 24, len(mode)), 255)
                pixels[..., -1] = last
                values = pixels[..., 0] if mode == "L" else pixels
                Image.fromarray(values.astype(np.uint8), mode=mode).save(folder / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def gray(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("gray")
    return make_pictures(root, mode="L", counts={"train": 4, "val": 3})


@pytest.fixture(scope="module")
def rgba(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("rgba")
    return make_pictures(root, mode="RGBA", counts={"train": 4, "val": 3})


@pytest.fixture(scope="module")
def own(timm_files: dict[str, Path]) -> dict[str, Any]:
    """A model with known weights for RGB."""
    return {"model": f"timm/{NAME}", "weights": timm_files[NAME]}


def test_finetune__a_gray_run_is_gray_everywhere(
    tmp_path: Path, gray: Path, own: dict[str, Any]
) -> None:
    _, talk = finetune(
        tmp_path / "run", data=gray, in_channels=1, unfreeze="last:1", epochs=1, **own
    )
    evaluation, judged = evaluate(run=tmp_path / "run")

    record = record_of(tmp_path / "run")
    assert record["preprocessing"]["mean"] == pytest.approx([0.5])
    assert record["config"]["in_channels"] == 1
    assert record["frozen"]["changed"] == 0
    assert any("layer conv1.0 adapted from RGB to 1" in one for one in record["model"]["remarks"])
    assert evaluation.report.metrics == pytest.approx(record["results"]["val"]["metrics"], rel=1e-6)
    theirs = timm.create_model(
        NAME,
        in_chans=1,
        pretrained=True,
        pretrained_cfg_overlay={"file": str(own["weights"])},
    )
    saved = read_weights(tmp_path / "run" / "model.safetensors")
    assert torch.equal(saved[FIRST], theirs.get_parameter(FIRST))  # frozen as it was adapted
    assert not any("channel" in word or "colour" in word for word in talk.warnings)
    assert not any("colour" in note for note in [*talk.notes, *judged.notes])
    _, again = finetune(
        tmp_path / "run",
        data=gray,
        in_channels=1,
        unfreeze="last:1",
        epochs=1,
        resume=True,
        **own,
    )
    assert any("nothing to go on with" in note for note in again.notes)


def test_finetune__an_interrupted_gray_run_goes_on(
    tmp_path: Path, gray: Path, own: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"data": gray, "in_channels": 1, "unfreeze": "all", "augment": "randaugment", **own}
    finetune(tmp_path / "whole", **options)
    with monkeypatch.context() as patch:
        signal_at(patch, epoch=1, step=1, number=signal.SIGTERM)
        with pytest.raises(InterruptedRunError):
            finetune(tmp_path / "cut", **options)

    finetune(tmp_path / "cut", resume=True, **options)

    assert results_of(tmp_path / "cut") == results_of(tmp_path / "whole")
    weights = read_weights(tmp_path / "whole" / "model.safetensors")[FIRST]
    assert weights.shape[1] == 1


def test_finetune__colours_are_told_once(tmp_path: Path, photos: Path) -> None:
    _, talk = finetune(tmp_path / "run", data=photos, in_channels=1, unfreeze="head", epochs=1)

    told = [note for note in [*talk.notes, *talk.warnings] if "colour" in note]
    assert told == [
        "27 images are stored in colour or with a palette, and read as gray (luma, ITU-R 601-2)."
    ]


def test_transparency_alone_can_be_learnt(tmp_path: Path, rgba: Path, own: dict[str, Any]) -> None:
    """On white all these pictures are white: without a fourth channel there is nothing to see."""
    blind, _ = extract(rgba, tmp_path / "three", **own)
    found, talk = extract(rgba, tmp_path / "four", in_channels=4, **own)
    run, _ = finetune(
        tmp_path / "run",
        data=rgba,
        in_channels=4,
        init_head=tmp_path / "four",
        unfreeze="all",
        lr=1e-5,
        epochs=1,
        **own,
    )
    evaluation, _ = evaluate(run=tmp_path / "run")

    metrics = blind["results"]["val"]["metrics"]
    assert (metrics["top1"], metrics["loss"]) == pytest.approx((1 / 3, np.log(3)))
    assert found["results"]["val"]["metrics"]["top1"] == 1.0
    assert not any("no transparency" in word for word in talk.warnings)
    assert run["results"]["val"]["metrics"]["top1"] == 1.0
    assert evaluation.report.metrics["top1"] == 1.0


def test_finetune__pictures_without_transparency_and_a_frozen_first_layer_are_told(
    tmp_path: Path, gray: Path, own: dict[str, Any]
) -> None:
    config = {"data": gray, "in_channels": 4, "epochs": 1, **own}

    _, talk = finetune(tmp_path / "head", unfreeze="head", **config)
    planned = CollectedTalk()
    finetune_recipe.dry_run(finetune_config(None, unfreeze="head", **config), talk=planned)
    unread = CollectedTalk()
    published = finetune_config(None, unfreeze="head", **{**config, "weights": "default"})
    finetune_recipe.dry_run(published, talk=unread)
    _, trained = finetune(tmp_path / "all", unfreeze="all", **config)

    lacking = "21 images have no transparency: the fourth channel is 255 everywhere in such ones."
    assert lacking in talk.warnings
    assert lacking in planned.warnings
    frozen = [word for word in talk.warnings if "is frozen, with the weights of red" in word]
    assert len(frozen) == 1
    assert frozen[0].startswith("conv1.0")
    assert frozen[0] in planned.warnings
    assert frozen[0] in unread.warnings
    assert not any("is frozen, with" in word for word in trained.warnings)


def test_extract__features_are_those_of_timms_network(
    tmp_path: Path, gray: Path, own: dict[str, Any]
) -> None:
    extract(gray, tmp_path / "store", in_channels=1, dtype="float32", no_head=True, **own)

    network = timm.create_model(
        NAME,
        in_chans=1,
        pretrained=True,
        pretrained_cfg_overlay={"file": str(own["weights"])},
    ).eval()
    network.reset_classifier(0)
    wanted = TimmSource().preprocessing(NAME, tag=None, in_channels=1)
    found = embeddings(tmp_path / "store")
    assert len(found) == 21
    for path, embedding in found.items():
        with Image.open(gray / path) as image:
            pixels = eval_transform(wanted)(image)[None]
        with torch.inference_mode():
            theirs = network(normalize(pixels, mean=wanted.mean, std=wanted.std))[0]
        torch.testing.assert_close(embedding, theirs, rtol=1e-4, atol=1e-4)


def test_extract__gray_and_rgb_do_not_mix(tmp_path: Path, gray: Path, own: dict[str, Any]) -> None:
    first, _ = extract(gray, None, no_head=True, **own)
    second, talk = extract(gray, None, in_channels=4, no_head=True, **own)

    assert first["store"] != second["store"]
    assert cache_counts(second) == (0, 21)
    assert any("is frozen, with the weights of red" in word for word in talk.warnings)
    extract(gray, tmp_path / "store", no_head=True, **own)
    with pytest.raises(ConfigError, match=r"was computed with other settings: .*preprocessing"):
        extract(gray, tmp_path / "store", in_channels=1, no_head=True, **own)


@pytest.mark.parametrize("options", [{}, {"layer": "last:2"}, {"head": "knn"}])
def test_extract__heads_are_judged_and_solved_again(
    tmp_path: Path, gray: Path, own: dict[str, Any], options: dict[str, Any]
) -> None:
    found, _ = extract(gray, tmp_path / "store", in_channels=1, **own, **options)
    again, _ = solve(tmp_path / "store", head="ridge", output=tmp_path / "ridge")

    for summary, run in ((found, tmp_path / "store"), (again, tmp_path / "ridge")):
        evaluation, _ = evaluate(run=run, split="val")
        metrics = summary["results"]["val"]["metrics"]
        assert evaluation.report.metrics["top1"] == metrics["top1"]
        assert evaluation.report.metrics["loss"] == pytest.approx(metrics["loss"], rel=2e-2)


def test_init_head__of_a_gray_head(tmp_path: Path, gray: Path, own: dict[str, Any]) -> None:
    probe, _ = extract(gray, tmp_path / "store", in_channels=1, **own)
    options = {"data": gray, "init_head": tmp_path / "store", "unfreeze": "head", "epochs": 1}

    finetune(tmp_path / "run", in_channels=1, **options, **own)

    top1 = probe["results"]["val"]["metrics"]["top1"]
    assert record_of(tmp_path / "run")["initial"]["top1"] == top1
    with pytest.raises(
        ConfigError,
        match=r"solved on features of pictures of 1 channel; this run has pictures of 3 channels\. "
        "Give --in-channels 1, or solve",
    ):
        finetune(tmp_path / "other", **options, **own)


def test_evaluate__a_run_has_its_channels(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--in-channels has no effect on a run folder"):
        evaluate(run=tmp_path, in_channels=1)


def test_evaluate__a_detector_takes_rgb(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--in-channels 1 has no effect on a detector, which"):
        evaluate(model="ssd300_vgg16", in_channels=1, output=tmp_path / "out")


@pytest.mark.slow
def test_evaluate__a_pretrained_model_in_gray(
    tmp_path: Path, shared_data: Path, shared_weights: Path
) -> None:
    """ImageNet's classes are known without colour, but for some of them."""
    data = {
        "data": shared_data / "imagenet_kaggle_mini",
        "model": "torchvision/squeezenet1_1",
        "weights": shared_weights / "torchvision_squeezenet1_1.safetensors",
    }
    colour, _ = evaluate(**data, output=tmp_path / "colour")
    gray, talk = evaluate(**data, in_channels=1, output=tmp_path / "gray")

    assert record_of(tmp_path / "gray")["config"]["in_channels"] == 1
    assert 0.6 * colour.report.metrics["top5"] < gray.report.metrics["top5"]
    assert gray.report.metrics["top1"] != colour.report.metrics["top1"]
    assert sum("stored in colour" in note for note in talk.notes) == 1
