"""`finetune --init-head`: it starts where the probe ended, and never ends below it."""

import csv
import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from toy import CLASSES, CollectedTalk, make_image_folder, make_split_folders

from recipes.feature_runs import (
    MODELS,
    all_bytes,
    extract,
    plain_embeddings,
    plain_network,
    solve,
    weight_file,
)
from recipes.runs import (
    evaluate,
    finetune,
    finetune_config,
    metrics_of,
    record_of,
    results_of,
    rows_of,
    signal_at,
)
from tlcli.backbones.catalog import parse_backbone_name
from tlcli.backbones.pretrained import choose_weights, create_backbone
from tlcli.config import FinetuneConfig
from tlcli.errors import ConfigError, DataError, InterruptedRunError, ModelError
from tlcli.models.saved_model import load_network
from tlcli.recipes import finetune as finetune_recipe
from tlcli.recipes.head_in_network import start_from_head

LITE0 = "timm/tf_efficientnet_lite0"
HARMFUL: dict[str, Any] = {"lr": 3.0, "epochs": 2, "unfreeze": "head"}


@pytest.fixture
def resnet(timm_files: dict[str, Path]) -> dict[str, Any]:
    """The model that `features` are of."""
    return {
        "model": "timm/test_resnet",
        "weights": timm_files["test_resnet"],
        "batch_size": 20,
    }


@pytest.mark.parametrize("name", MODELS)
def test_run__starts_at_the_accuracy_of_the_probe(
    tmp_path: Path, noisy: Path, timm_files: dict[str, Path], name: str
) -> None:
    own = {"model": f"timm/{name}", "weights": timm_files[name], "batch_size": 20}
    probe, _ = extract(noisy, tmp_path / "s", **own, penalties="0.001,0.01,0.1")

    summary, talk = finetune(
        tmp_path / "run", data=noisy, init_head=tmp_path / "s", unfreeze="head", epochs=1, **own
    )

    initial, found = record_of(tmp_path / "run")["initial"], probe["results"]["val"]["metrics"]
    assert initial["top1"] == found["top1"]
    assert initial["macro_f1"] == found["macro_f1"]
    assert initial["loss"] == pytest.approx(found["loss"], rel=2e-3)
    assert summary["best"]["value"] >= found["top1"]
    assert 1 / 3 + 0.05 < found["top1"] < 0.95
    (said,) = [note for note in talk.notes if note.startswith("Before the first step")]
    assert said.startswith(f"Before the first step: val top-1 {100 * found['top1']:.1f} %, loss ")


def test_run__ridge_heads_too(
    tmp_path: Path, noisy: Path, features: Path, resnet: dict[str, Any]
) -> None:
    probe, _ = solve(features, head="ridge", output=tmp_path / "ridge")

    finetune(
        tmp_path / "run", data=noisy, init_head=tmp_path / "ridge", **resnet, epochs=1, lr=1e-5
    )

    initial = record_of(tmp_path / "run")["initial"]
    assert initial["top1"] == probe["results"]["val"]["metrics"]["top1"]
    assert initial["loss"] == pytest.approx(probe["results"]["val"]["metrics"]["loss"], rel=2e-3)


@pytest.mark.slow
def test_run__distilled_heads_are_averaged(tmp_path: Path, noisy: Path) -> None:
    own = {"model": "timm/deit_tiny_distilled_patch16_224", "weights": "none", "limit": 3}
    probe, _ = extract(noisy, tmp_path / "s", **own, penalties="0.01")

    finetune(
        tmp_path / "run", data=noisy, init_head=tmp_path / "s", unfreeze="head", epochs=1, **own
    )

    initial = record_of(tmp_path / "run")["initial"]
    assert initial["top1"] == probe["results"]["val"]["metrics"]["top1"]
    assert initial["loss"] == pytest.approx(probe["results"]["val"]["metrics"]["loss"], rel=2e-3)


def test_run__head_only_run_can_be_gone_on_from(
    tmp_path: Path, photos: Path, resnet: dict[str, Any]
) -> None:
    common = {"data": photos, "epochs": 1, "fold_norm": False, **resnet}
    first, _ = finetune(tmp_path / "a", unfreeze="head", lr=0.01, **common)

    finetune(tmp_path / "b", init_head=tmp_path / "a", **common)

    initial, metrics = record_of(tmp_path / "b")["initial"], first["results"]["val"]["metrics"]
    assert set(initial) == {"loss", "top1", "top5", "macro_f1"}
    assert initial == {name: metrics[name] for name in initial}


def test_run__epoch_0_is_kept_where_training_makes_it_worse(
    tmp_path: Path, noisy: Path, features: Path, resnet: dict[str, Any]
) -> None:
    summary, talk = finetune(tmp_path / "run", data=noisy, init_head=features, **resnet, **HARMFUL)

    probe = record_of(features / "head")
    value = probe["results"]["val"]["metrics"]["top1"]
    assert max(float(row["val/top1"]) for row in metrics_of(tmp_path / "run")) < value
    assert [row["epoch"] for row in metrics_of(tmp_path / "run")] == ["1", "2"]
    assert summary["best"] == {"epoch": 0, "metric": "val/top1", "value": value}
    assert talk.best_epochs == []
    kept = safetensors.torch.load_file(tmp_path / "run" / "model.safetensors")
    start = safetensors.torch.load_file(features / "head" / "model.safetensors")
    assert all(torch.equal(kept[name], start[name]) for name in start)
    assert summary["frozen"]["changed"] == 0
    for split in ("val", "test"):
        found, wanted = (r["results"][split]["metrics"] for r in (summary, probe))
        assert found["top1"] == wanted["top1"]
    assert evaluate(run=tmp_path / "run", split="val")[0].report.metrics["top1"] == value


def test_run__better_epoch_is_taken(
    tmp_path: Path, photos: Path, timm_files: dict[str, Path]
) -> None:
    own = {"model": "timm/test_vit", "weights": timm_files["test_vit"]}
    extract(photos, tmp_path / "s", penalties="1e-5", **own)

    summary, _ = finetune(
        tmp_path / "run",
        data=photos,
        init_head=tmp_path / "s",
        monitor="loss",
        lr=3e-3,
        backbone_lr=1e-3,
        epochs=2,
        **own,
    )

    losses = [float(row["val/loss"]) for row in metrics_of(tmp_path / "run")]
    assert min(losses) < record_of(tmp_path / "run")["initial"]["loss"]
    assert summary["best"] == {
        "epoch": 1 + losses.index(min(losses)),
        "metric": "val/loss",
        "value": min(losses),
    }


def test_resume__equals_a_run_that_was_left_alone(
    tmp_path: Path,
    noisy: Path,
    features: Path,
    resnet: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = {"data": noisy, "init_head": features, "limit": 12, **resnet, **HARMFUL}
    values["batch_size"] = 6
    finetune(tmp_path / "whole", **values)
    with monkeypatch.context() as patch:
        signal_at(patch, epoch=1, step=1, number=signal.SIGTERM)
        with pytest.raises(InterruptedRunError):
            finetune(tmp_path / "parts", **values)

    _, talk = finetune(tmp_path / "parts", resume=True, **values)

    assert results_of(tmp_path / "parts") == results_of(tmp_path / "whole")
    initial = (record_of(tmp_path / name)["initial"] for name in ("parts", "whole"))
    assert next(initial) == next(initial)
    assert not [note for note in talk.notes if note.startswith("Before the first step")]


def other_model(root: Path) -> dict[str, Any]:
    return {"model": "timm/test_vit", "weights": "none"}


def other_weights(root: Path) -> dict[str, Any]:
    return {"weights": weight_file(root / "w.safetensors", name="test_resnet", seed=6)}


def random_weights(root: Path) -> dict[str, Any]:
    return {"weights": "none"}


def other_pixels(root: Path) -> dict[str, Any]:
    return {"mean": "0.1,0.2,0.3", "std": "0.4"}


def plan_run(*, output: Path | None = None, **options: Any) -> None:
    """Ask for the plan as `finetune --dry-run` would."""
    finetune_recipe.dry_run(finetune_config(output, **options), talk=CollectedTalk())


def other_classes(root: Path) -> dict[str, Any]:
    counts = {"train": 2, "val": 2}
    return {"data": make_split_folders(root / "d", counts=counts, classes=("ant", "bee", "dog"))}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            other_model,
            "it was solved on features of timm/test_resnet; this run has timm/test_vit. Give "
            "--model timm/test_resnet, or solve a head on features of this run's own.",
        ),
        (
            other_weights,
            r"it was solved on features of weights (\S+/test_resnet.safetensors) \(sha256 [0-9a-f]"
            r"{8}…\); this run has weights \S+/w.safetensors \(sha256 [0-9a-f]{8}…\). Give "
            r"--weights \1, or solve",
        ),
        (random_weights, r"\(sha256 [0-9a-f]{8}…\); this run has random weights. Give --weights"),
        (
            other_pixels,
            r"it was solved on features of pixels with mean 0.5, pixels with std 0.5; this run "
            r"has mean 0.1,0.2,0.3, std 0.4. Give --mean 0.5 --std 0.5, or",
        ),
        (other_classes, "its classes are not those of the data; 2 differ, 'cat' for one"),
    ],
)
def test_run__head_of_something_else_is_refused(
    tmp_path: Path,
    noisy: Path,
    features: Path,
    resnet: dict[str, Any],
    change: Callable[[Path], dict[str, Any]],
    words: str,
) -> None:
    options = {"data": noisy, **resnet, **change(tmp_path)}

    wanted = f"^--init-head {features / 'head'}: .*{words}"
    with pytest.raises(ConfigError, match=wanted):
        finetune(tmp_path / "run", init_head=features, **options)
    with pytest.raises(ConfigError, match=wanted):
        plan_run(init_head=features, **options)

    assert not (tmp_path / "run").exists()


def test_run__random_weights_of_another_seed_are_refused(tmp_path: Path, photos: Path) -> None:
    extract(photos, tmp_path / "s", penalties="0.01", seed=1)
    options: dict[str, Any] = {"data": photos, "init_head": tmp_path / "s", "epochs": 1}

    with pytest.raises(ConfigError, match="tensors of its backbone differ from this"):
        finetune(tmp_path / "other", **options, seed=2)
    with pytest.raises(ConfigError, match="tensors of its backbone differ from this"):
        plan_run(**options, seed=2)
    plan_run(**options, seed=1)
    finetune(tmp_path / "same", **options, seed=1)

    probe = record_of(tmp_path / "s" / "head")["results"]["val"]["metrics"]
    assert record_of(tmp_path / "same")["initial"]["top1"] == probe["top1"]


def test_run__head_on_a_trained_backbone_is_refused(
    tmp_path: Path, photos: Path, resnet: dict[str, Any]
) -> None:
    finetune(tmp_path / "a", data=photos, unfreeze="layer4", epochs=1, **resnet)

    with pytest.raises(ConfigError, match=r"differ from this network's, 'layer4\.0\.\S+' for"):
        finetune(tmp_path / "b", data=photos, init_head=tmp_path / "a", epochs=1, **resnet)


def mlp_run(root: Path, features: Path, data: Path, own: dict[str, Any]) -> Path:
    finetune(root / "mlp", data=data, limit=3, head="mlp:8", unfreeze="head", epochs=1, **own)
    return root / "mlp"


def knn_run(root: Path, features: Path, data: Path, own: dict[str, Any]) -> Path:
    solve(features, head="knn", penalties="3", output=root / "knn")
    return root / "knn"


def layer_run(root: Path, features: Path, data: Path, own: dict[str, Any]) -> Path:
    extract(data, root / "layers", limit=3, layer="layer3", penalties="1", **own)
    return root / "layers"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (mlp_run, "has a head of kind 'mlp' on embeddings"),
        (knn_run, "has a head of kind 'knn' on embeddings"),
        (layer_run, "has a head of kind 'linear' on outputs of layer3"),
    ],
)
def test_run__head_that_cannot_be_taken_over_is_refused(
    tmp_path: Path,
    noisy: Path,
    features: Path,
    resnet: dict[str, Any],
    make: Callable[..., Path],
    words: str,
) -> None:
    start = make(tmp_path, features, noisy, resnet)

    wanted = f"{words}. Only a linear head on the embedding can be"
    with pytest.raises(ModelError, match=wanted):
        finetune(tmp_path / "run", data=noisy, init_head=start, **resnet)
    with pytest.raises(ModelError, match=wanted):
        plan_run(data=noisy, init_head=start, **resnet)

    assert not (tmp_path / "run").exists()


def test_run__run_that_is_not_there_is_told(tmp_path: Path, noisy: Path) -> None:
    with pytest.raises(DataError, match=r"There is no folder '.*nowhere'"):
        finetune(tmp_path / "run", data=noisy, init_head=tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"model\.json is missing or damaged"):
        finetune(tmp_path / "run", data=noisy, init_head=tmp_path / "empty")


def test_run__features_without_a_head_are_told(
    tmp_path: Path, noisy: Path, resnet: dict[str, Any]
) -> None:
    extract(noisy, tmp_path / "s", no_head=True, limit=3, **resnet)

    with pytest.raises(DataError, match="have no head: solve one with 'tlcli probe"):
        finetune(tmp_path / "run", data=noisy, init_head=tmp_path / "s", **resnet)


def test_config__an_mlp_cannot_start_from_a_linear_head() -> None:
    with pytest.raises(ConfigError, match="--init-head brings a linear head, --head mlp:8 asks"):
        FinetuneConfig.from_options({"init_head": "x", "head": "mlp:8"})


def test_run__name_of_the_cache_is_kept_as_a_path(
    tmp_path: Path, photos: Path, resnet: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TLCLI_CACHE_DIR", str(tmp_path / "cache"))
    probe, _ = extract(photos, None, penalties="0.01", **resnet)
    name = Path(probe["store"]).name

    finetune(tmp_path / "run", data=photos, init_head=name, epochs=1, **resnet)

    assert record_of(tmp_path / "run")["config"]["init_head"] == probe["store"]
    with (tmp_path / "run" / "config.toml").open() as file:
        assert f'init_head = "{probe["store"]}"\n' in file.readlines()


def test_run__leaves_the_head_as_it_was(
    tmp_path: Path, noisy: Path, features: Path, resnet: dict[str, Any]
) -> None:
    before = all_bytes(features)

    finetune(tmp_path / "run", data=noisy, limit=3, init_head=features, epochs=1, **resnet)

    assert all_bytes(features) == before


def test_start_from_head__classes_in_another_order_are_matched_by_name(
    noisy: Path, features: Path, resnet: dict[str, Any]
) -> None:
    backbone = create_backbone(resnet["model"], weights=str(resnet["weights"]))
    network = backbone.network.eval()
    order = ("cat", "ant", "bee")

    talk = CollectedTalk()
    start_from_head(network, features, backbone=backbone, classes=order, talk=talk)

    assert talk.notes == [f"Head: {features / 'head'}."]

    own, description = load_network(features / "head")
    images = torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found, wanted = network(images), own.eval()(images)
    assert description.classes == ("ant", "bee", "cat")
    torch.testing.assert_close(found, wanted[:, [2, 0, 1]])
    assert float(wanted.std(dim=1).min()) > 1e-4


def test_start_from_head__logits_are_the_head_on_the_plain_embedding(
    noisy: Path, features: Path, resnet: dict[str, Any]
) -> None:
    backbone = create_backbone(resnet["model"], weights=str(resnet["weights"]))
    start_from_head(
        backbone.network, features, backbone=backbone, classes=CLASSES, talk=CollectedTalk()
    )
    path = features / "head" / "evaluation" / "test" / "predictions.csv"
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    paths = [row["path"] for row in rows]

    embedding = plain_embeddings(noisy, paths, name="test_resnet", weights=Path(resnet["weights"]))
    state = backbone.network.state_dict()
    logits = embedding @ state["fc.weight"].T + state["fc.bias"]

    assert [CLASSES[i] for i in logits.argmax(dim=1)] == [row["prediction"] for row in rows]
    start = plain_network("test_resnet", Path(resnet["weights"])).state_dict()
    assert all(torch.equal(state[n], start[n]) for n in start if not n.startswith("fc."))


def test_dry_run__without_the_weights_compares_their_name(tmp_path: Path, photos: Path) -> None:
    extract(photos, tmp_path / "s", model="timm/test_vit", penalties="1")
    published: dict[str, Any] = {
        **{"model": "timm/test_vit", "weights": "default", "offline": True},
        **{"data": photos, "init_head": tmp_path / "s"},
    }
    tag = choose_weights(parse_backbone_name("timm/test_vit"), "default").tag

    with pytest.raises(
        ConfigError, match=f"features of random weights; this run has weights {tag}."
    ):
        plan_run(**published)
    path = tmp_path / "s" / "head" / "model.json"
    origin = {"weights": tag, "weights_sha256": "ab" * 32, "shape_tag": tag}
    path.write_text(json.dumps({**json.loads(path.read_text()), **origin}))

    plan_run(**published)


def test_dry_run__a_run_that_goes_on_has_its_head(tmp_path: Path, photos: Path) -> None:
    plan_run(data=photos, init_head="gone", resume=True, output=tmp_path / "run")


def test_dry_run__needs_the_head_to_be_there(tmp_path: Path, noisy: Path) -> None:
    options = {"model": "timm/test_vit", "weights": "none", "data": str(noisy)}
    config = FinetuneConfig.from_options({**options, "init_head": str(tmp_path / "nowhere")})
    with pytest.raises(DataError, match="There is no folder"):
        finetune_recipe.dry_run(config, talk=CollectedTalk())


@pytest.mark.slow
def test_run__on_real_photos(tmp_path: Path, shared_data: Path, shared_weights: Path) -> None:
    own = {"model": LITE0, "weights": shared_weights / "timm_tf_efficientnet_lite0.safetensors"}
    data = shared_data / "hymenoptera"
    probe, _ = extract(data, tmp_path / "s", **own)

    summary, _ = finetune(
        tmp_path / "run", data=data, init_head=tmp_path / "s", unfreeze="head", epochs=1, **own
    )

    top1 = probe["results"]["val"]["metrics"]["top1"]
    assert top1 >= 0.94
    assert record_of(tmp_path / "run")["initial"]["top1"] == top1
    assert summary["best"]["value"] >= top1


@pytest.fixture
def noise(tmp_path: Path) -> Path:
    """36 pictures without a split in which there is nothing to learn."""
    return make_image_folder(tmp_path / "noise", images_per_class=12)


OF_NOISE: dict[str, Any] = {"model": "timm/test_vit", "seed": 0}


def noise_head(root: Path, noise: Path, weights: Path, **options: Any) -> Path:
    own = {**OF_NOISE, "weights": weights, **options}
    extract(noise, root / "head", head="ridge", penalties="1e-9", **own)
    return root / "head"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 1}, "It was split with --seed 0, this run is with --seed 1."),
        ({"fold": "1/3"}, "It was split with no --fold, this run is with --fold 1/3."),
        ({"val_split": 0.5}, "It was split with --val-split 0.2, this run is with --val-split 0.5"),
        (
            {"test_split": 0.3, "seed": 1},
            "split with --test-split 0.0, --seed 0, this run is with --test-split 0.3, --seed 1.",
        ),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, dict) else None,
)
def test_run__head_of_another_split_is_refused(
    tmp_path: Path, noise: Path, timm_files: dict[str, Path], change: dict[str, Any], words: str
) -> None:
    weights = timm_files["test_vit"]
    head = noise_head(tmp_path, noise, weights)
    options = {"data": noise, "init_head": head, "weights": weights, **OF_NOISE, **change}

    wanted = rf"^--init-head {head / 'head'}: \d+ of the \d+ images in val and test \('.*{words}"
    with pytest.raises(ConfigError, match=wanted):
        finetune(tmp_path / "run", **options)
    with pytest.raises(ConfigError, match=wanted):
        plan_run(**options)

    assert not (tmp_path / "run").exists()


def test_run__head_of_the_same_split_is_taken(
    tmp_path: Path, noise: Path, timm_files: dict[str, Path]
) -> None:
    """Exact copies that cross its own split, and a smaller sample of it, are no other split."""
    for name in ("ant", "bee", "cat"):
        for number in range(6):
            shutil.copy(noise / name / f"{number}.png", noise / name / f"copy{number}.png")
    weights = timm_files["test_vit"]
    head = noise_head(tmp_path, noise, weights)
    options = {"init_head": head, "weights": weights, **OF_NOISE}

    plan_run(data=noise, **options)
    plan_run(data=noise, limit=3, **options)
    moved = shutil.copytree(noise, tmp_path / "moved" / "noise")
    plan_run(data=moved, **options)
    wanted = f"with --data {noise}, --val-split 0.2, this run is with --data {moved}, --val-split"
    with pytest.raises(ConfigError, match=wanted):
        plan_run(data=moved, **{**options, "val_split": 0.5})


def test_run__head_solved_on_copies_of_held_out_images_counts_them(
    tmp_path: Path, noise: Path, timm_files: dict[str, Path]
) -> None:
    weights = timm_files["test_vit"]
    head = noise_head(tmp_path, noise, weights)
    rows = {row["path"]: row["split"] for row in rows_of(head / "splits.csv")}
    leaked = sorted(path for path, split in rows.items() if split == "train")[:5]
    table = tmp_path / "other" / "table.csv"
    lines = []
    for path, split in rows.items():
        name = path.replace("/", "_")
        target = table.parent / name
        target.parent.mkdir(exist_ok=True)
        shutil.copy(noise / path, target)
        part = "val" if path in leaked or split != "train" else "train"
        lines.append(f"{name},{path.partition('/')[0]},{part}\n")
    table.write_text("path,label,split\n" + "".join(lines))
    held_out = sum(line.endswith(",val\n") for line in lines)

    with pytest.raises(ConfigError, match=f": 5 of the {held_out} images in val and test"):
        plan_run(data=table, init_head=head, weights=weights, **OF_NOISE)


def test_run__head_on_images_of_another_size_names_the_remedy(
    tmp_path: Path, photos: Path, timm_files: dict[str, Path]
) -> None:
    own = {"model": "timm/test_vit", "weights": timm_files["test_vit"]}
    extract(photos, tmp_path / "s", penalties="1", input_size=64, **own)
    options = {"data": photos, "init_head": tmp_path / "s", **own}

    with pytest.raises(
        ConfigError,
        match=r"on features of pixels with input size 64; this run has input size 160\. "
        "Give --input-size 64, or solve a head",
    ):
        plan_run(**options)
    plan_run(**options, input_size=64)
