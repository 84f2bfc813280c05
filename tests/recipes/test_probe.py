"""Heads on features: the penalty that validation chose, scikit-learn's numbers, a run folder."""

import json
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler
from toy import make_image_folder

from recipes.feature_runs import (
    all_bytes,
    cache_counts,
    extract,
    part_of,
    penalty_rows,
    solve,
)
from recipes.runs import evaluate, record_of, rows_of
from tlcli.errors import ConfigError, DataError
from tlcli.recipes.solved_heads import DEFAULT_PENALTIES

NAMES = {"linear": "C", "ridge": "alpha", "knn": "neighbours"}
CLASSES = ("ant", "bee", "cat")


@pytest.fixture(scope="module")
def layered(
    tmp_path_factory: pytest.TempPathFactory, noisy: Path, timm_files: dict[str, Path]
) -> Path:
    """Features of two stages of a ViT; for reading only."""
    path = tmp_path_factory.mktemp("layered") / "vit"
    weights = timm_files["test_vit"]
    extract(
        noisy,
        path,
        model="timm/test_vit",
        weights=weights,
        layer="blocks.1,blocks.4",
        pool="cls",
        no_head=True,
    )
    return path


def predictions(folder: Path) -> dict[str, str]:
    """Return the predicted class of every image by class folder and file name."""
    rows = rows_of(folder / "predictions.csv")
    return {"/".join(row["path"].split("/")[-3:]): row["prediction"] for row in rows}


@pytest.mark.parametrize("head", ["linear", "ridge", "knn"])
def test_run__every_penalty_is_told_and_the_best_on_val_is_taken(
    tmp_path: Path, features: Path, head: str
) -> None:
    summary, _ = solve(features, head=head, output=tmp_path / "run")

    rows, name = penalty_rows(tmp_path / "run"), NAMES[head]
    wanted = [p for p in DEFAULT_PENALTIES[head] if head != "knn" or p <= 60]
    ranked = sorted(rows, key=lambda row: (-float(row["val/top1"]), float(row["val/loss"])))
    best = summary["best"]
    assert [float(row[name]) for row in rows] == wanted
    assert (best[name], best["value"]) == (float(ranked[0][name]), float(ranked[0]["val/top1"]))
    assert best["metric"] == "val/top1"
    assert summary["results"]["val"]["metrics"]["top1"] == float(ranked[0]["val/top1"])
    assert summary["results"]["val"]["metrics"]["loss"] == float(ranked[0]["val/loss"])
    assert len({row["val/top1"] for row in rows}) > 1
    assert not [column for column in rows[0] if column.startswith("test/")]
    assert {split: r["num_images"] for split, r in summary["results"].items()} == {
        "val": 36,
        "test": 30,
    }


@pytest.mark.parametrize("monitor", ["loss", "macro_f1", "top5"])
def test_run__monitor_chooses(tmp_path: Path, features: Path, monitor: str) -> None:
    summary, _ = solve(features, monitor=monitor, output=tmp_path / "run")

    rows = penalty_rows(tmp_path / "run")
    sign = 1 if monitor == "loss" else -1
    first = min(rows, key=lambda row: (sign * float(row[f"val/{monitor}"]), float(row["val/loss"])))
    assert summary["best"]["metric"] == f"val/{monitor}"
    assert summary["best"]["C"] == float(first["C"])
    assert summary["best"]["value"] == float(first[f"val/{monitor}"])


def test_run__linear_heads_are_those_of_scikit_learn(tmp_path: Path, features: Path) -> None:
    solve(features, output=tmp_path / "run", penalties="0.001,0.1,10")

    train, labels = part_of(features, "train")
    val, targets = part_of(features, "val")
    scaler = StandardScaler().fit(train)
    for row in penalty_rows(tmp_path / "run"):
        oracle = LogisticRegression(C=float(row["C"]), tol=1e-8, max_iter=10_000)
        oracle.fit(scaler.transform(train), labels)
        probs = oracle.predict_proba(scaler.transform(val))
        assert float(row["val/loss"]) == pytest.approx(log_loss(targets, probs), rel=2e-3)
        right = np.array(CLASSES)[probs.argmax(axis=1)] == np.array(targets)
        assert float(row["val/top1"]) == right.mean()
        loss = log_loss(labels, oracle.predict_proba(scaler.transform(train)))
        objective = loss + 0.5 * (oracle.coef_**2).sum() / (float(row["C"]) * len(labels))
        assert float(row["objective"]) == pytest.approx(objective, rel=2e-6)
        assert row["converged"] in ("True", "1", "true")


def test_run__ridge_heads_decide_as_those_of_scikit_learn(tmp_path: Path, features: Path) -> None:
    summary, _ = solve(features, head="ridge", output=tmp_path / "run", penalties="1,100,10000")

    train, labels = part_of(features, "train")
    val, targets = part_of(features, "val")
    scaler = StandardScaler().fit(train)
    oracles = [
        RidgeClassifier(alpha=alpha).fit(scaler.transform(train), labels)
        for alpha in (1, 100, 10000)
    ]
    found = [float(row["val/top1"]) for row in penalty_rows(tmp_path / "run")]
    wanted = [(oracle.predict(scaler.transform(val)) == targets).mean() for oracle in oracles]
    assert found == pytest.approx(wanted, abs=1e-12)
    chosen = {1: 0, 100: 1, 10000: 2}[summary["best"]["alpha"]]
    test, _ = part_of(features, "test")
    ours = predictions(tmp_path / "run" / "evaluation" / "test")
    assert list(ours.values()) == oracles[chosen].predict(scaler.transform(test)).tolist()


def test_run__saved_head_is_the_solved_one(tmp_path: Path, features: Path) -> None:
    summary, _ = solve(features, output=tmp_path / "run", penalties="0.01")

    state = safetensors.torch.load_file(tmp_path / "run" / "model.safetensors")
    test, targets = part_of(features, "test")
    logits = torch.from_numpy(test).float() @ state["fc.weight"].T + state["fc.bias"]
    predicted = np.array(CLASSES)[logits.argmax(dim=1).numpy()]
    assert (predicted == targets).mean() == summary["results"]["test"]["metrics"]["top1"]
    start = safetensors.torch.load_file(features / "backbone" / "model.safetensors")
    assert start.keys() == state.keys()
    assert all(torch.equal(start[n], state[n]) for n in start if not n.startswith("fc."))


def test_run__folder_is_a_run_folder_and_complete(tmp_path: Path, features: Path) -> None:
    solve(features, output=tmp_path / "run", shots="1,2", repeats=2)

    tables = {"metrics.json", "predictions.csv", "per_class.csv", "confusion_matrix.csv"}
    assert set(all_bytes(tmp_path / "run")) == {
        *("run.json", "config.toml", "splits.csv", "model.safetensors", "model.json"),
        *("penalties.csv", "few_shot.csv", "few_shot.png"),
        *(f"evaluation/{split}/{name}" for split in ("val", "test") for name in tables),
    }
    record = record_of(tmp_path / "run")
    extraction = record_of(features)
    assert (record["status"], record["kind"], record["command"]) == (
        "finished",
        "classification",
        "probe",
    )
    assert record["store"] == str(features)
    for key in ("model", "classes", "preprocessing", "data", "features", "frozen"):
        assert record[key] == extraction[key]
    assert (tmp_path / "run" / "splits.csv").read_bytes() == (features / "splits.csv").read_bytes()


def test_run__pictures_are_drawn(features: Path) -> None:
    # the fixture was made before the tests' own pictures were left out
    pictures = {path.name for path in (features / "head").rglob("*.png")}
    assert pictures == {"penalties.png", "confusion_matrix.png"}


def test_run__summary_keys(tmp_path: Path, features: Path) -> None:
    summary, _ = solve(features, output=tmp_path / "run")

    assert list(summary) == [
        *("schema_version", "run", "store", "model", "head", "status", "best", "results"),
        *("few_shot", "features", "frozen", "trunk_cache", "seconds", "next"),
    ]
    assert (summary["run"], summary["store"]) == (str(tmp_path / "run"), str(features))
    assert summary["few_shot"] is None
    seconds = summary["seconds"]
    assert set(seconds) == {"extract", "head", "evaluation", "total"}
    assert seconds["extract"] == 0
    assert seconds["total"] == pytest.approx(seconds["head"] + seconds["evaluation"])
    assert summary["features"]["seconds"] == record_of(features)["seconds"]["extract"] > 0


def test_run__computed_no_features(tmp_path: Path, features: Path) -> None:
    own = record_of(features / "head")
    summary, _ = solve(features, output=tmp_path / "run")

    assert cache_counts(own) == (0, 126)
    assert cache_counts(summary) == (126, 0)


def test_run__head_of_the_extraction_is_the_same_as_a_probe(tmp_path: Path, features: Path) -> None:
    solve(features, output=tmp_path / "run")

    head, run = features / "head", tmp_path / "run"
    for name in ("model.safetensors", "model.json", "penalties.csv", "config.toml", "splits.csv"):
        assert (head / name).read_bytes() == (run / name).read_bytes(), name
    assert record_of(head)["results"] == record_of(run)["results"]
    assert record_of(head)["command"] == "extract-features"


@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.parametrize("head", ["linear", "ridge", "knn"])
@pytest.mark.parametrize("kind", ["embedding", "layers"])
def test_run__evaluate_on_the_images_gives_the_same(
    tmp_path: Path, features: Path, layered: Path, kind: str, head: str, split: str
) -> None:
    store = {"embedding": features, "layers": layered}[kind]
    summary, _ = solve(store, head=head, output=tmp_path / "run")
    ours = predictions(tmp_path / "run" / "evaluation" / split)

    evaluation, _ = evaluate(run=tmp_path / "run", split=split, batch_size=7)

    kept = summary["results"][split]["metrics"]
    assert evaluation.report.metrics["top1"] == kept["top1"]
    assert evaluation.report.metrics["loss"] == pytest.approx(kept["loss"], rel=5e-3)
    assert predictions(evaluation.folder) == ours
    assert len(set(ours.values())) == 3


def test_evaluate__of_the_features_means_their_head(tmp_path: Path, features: Path) -> None:
    copy = shutil.copytree(features, tmp_path / "copy")

    solve(copy, head="knn", penalties="3")

    evaluation, talk = evaluate(run=copy, split="test")

    assert talk.notes[0] == f"Head: {copy / 'head'}. Others there: probe-knn."
    kept = record_of(features / "head")["results"]["test"]["metrics"]["top1"]
    assert evaluation.report.metrics["top1"] == kept
    assert evaluation.folder == copy / "head" / "evaluation" / "test"


def test_evaluate__of_features_without_a_head_is_told(layered: Path) -> None:
    words = f"The features in '{layered}' have no head: solve one with 'tlcli probe {layered}'"
    with pytest.raises(DataError, match=words):
        evaluate(run=layered)


def test_evaluate__of_a_head_on_other_images(tmp_path: Path, features: Path, noisy: Path) -> None:
    copy = shutil.copytree(features / "head", tmp_path / "run")
    images = shutil.copytree(noisy / "test", tmp_path / "new")

    evaluation, _ = evaluate(run=copy, data=images)

    kept = record_of(features / "head")["results"]["test"]["metrics"]["top1"]
    assert evaluation.report.metrics["top1"] == kept


def test_run__needs_no_images(tmp_path: Path, timm_files: dict[str, Path], noisy: Path) -> None:
    data = shutil.copytree(noisy, tmp_path / "photos")
    weights = shutil.copy(timm_files["test_resnet"], tmp_path / "w.safetensors")
    first, _ = extract(data, tmp_path / "s", weights=weights)
    shutil.rmtree(data)
    Path(weights).unlink()

    again, _ = solve(tmp_path / "s", output=tmp_path / "again")
    other, _ = solve(tmp_path / "s", penalties="0.01:1:3", shots="1,3", repeats=2)
    near, _ = solve(tmp_path / "s", head="knn", penalties="7")

    assert again["results"] == first["results"]
    assert [float(row["C"]) for row in penalty_rows(Path(other["run"]))] == [0.01, 0.1, 1.0]
    assert [point["shots"] for point in other["few_shot"]] == [1, 3]
    assert near["best"]["neighbours"] == 7
    assert (Path(other["run"]), Path(near["run"])) == (
        tmp_path / "s" / "probe-linear",
        tmp_path / "s" / "probe-knn",
    )
    second, _ = solve(tmp_path / "s")
    assert second["run"] == str(tmp_path / "s" / "probe-linear-2")


def test_run__random_views_are_trained_on_and_never_judged(
    tmp_path: Path, noisy: Path, timm_files: dict[str, Path]
) -> None:
    weights = timm_files["test_resnet"]
    summary, _ = extract(noisy, tmp_path / "s", weights=weights, views=2, penalties="0.01")

    train, labels = part_of(tmp_path / "s", "train", views=True)
    val, targets = part_of(tmp_path / "s", "val")
    scaler = StandardScaler().fit(train)
    oracle = LogisticRegression(C=0.01, tol=1e-8, max_iter=10_000)
    oracle.fit(scaler.transform(train), labels)
    assert (len(train), len(val)) == (180, 36)
    assert summary["results"]["val"]["num_images"] == 36
    wanted = (oracle.predict(scaler.transform(val)) == targets).mean()
    assert summary["results"]["val"]["metrics"]["top1"] == pytest.approx(wanted)
    few, _ = solve(tmp_path / "s", shots="20", repeats=2, output=tmp_path / "few")
    assert few["few_shot"][0]["interval"][0] == few["few_shot"][0]["interval"][1]  # all 20, twice
    with pytest.raises(DataError, match="the smallest class has 20 train images"):
        solve(tmp_path / "s", shots="21", output=tmp_path / "more")


def test_run__same_seed_same_bytes_other_seed_other_intervals(
    tmp_path: Path, features: Path
) -> None:
    options: dict[str, Any] = {"shots": "2", "repeats": 3}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        solve(features, output=tmp_path / name, seed=seed, **options)

    def results(name: str) -> Any:
        record = record_of(tmp_path / name)
        return record["results"], record["few_shot"], record["best"], record["seed"]

    assert results("a") == results("b")
    assert results("a")[1] != results("c")[1]
    assert results("a")[0]["val"]["metrics"] == results("c")[0]["val"]["metrics"]
    assert results("a")[0]["val"]["intervals"] != results("c")[0]["val"]["intervals"]
    assert results("c")[3] == 1


def test_run__other_seed_does_not_change_which_images_were_limited(
    tmp_path: Path, noisy: Path, timm_files: dict[str, Path]
) -> None:
    weights = timm_files["test_resnet"]
    extract(noisy, tmp_path / "s", weights=weights, limit=12, no_head=True)
    summary, _ = solve(tmp_path / "s", seed=3)

    ours = set(predictions(Path(summary["run"]) / "evaluation" / "val"))

    evaluation, _ = evaluate(run=summary["run"], split="val")

    assert evaluation.report.metrics["top1"] == summary["results"]["val"]["metrics"]["top1"]
    assert set(predictions(evaluation.folder)) == ours
    assert len(ours) == 12


def test_run__config_toml_makes_the_same_head(tmp_path: Path, features: Path) -> None:
    solve(features, output=tmp_path / "a", head="knn", penalties="3:48:5", monitor="loss", seed=4)

    options = tomllib.loads((tmp_path / "a" / "config.toml").read_text())
    solve(features, output=tmp_path / "b", **options)

    assert options["penalties"] == "3.0,6.0,12.0,24.0,48.0"
    first, again = (all_bytes(tmp_path / name) for name in ("a", "b"))
    assert first.pop("run.json") != again.pop("run.json")  # the clock
    assert first == again


@pytest.mark.parametrize(
    ("options", "warns"),
    [
        ({"penalties": "0.1,1,10"}, True),
        ({"penalties": "1e-9,1e-8,0.01,10"}, False),
        ({"penalties": "1"}, False),
        ({"head": "knn", "penalties": "50,60"}, False),
    ],
    ids=str,
)
def test_run__penalty_at_the_edge_is_warned_of(
    tmp_path: Path, features: Path, options: dict[str, Any], warns: bool
) -> None:
    _, talk = solve(features, output=tmp_path / "run", monitor="loss", **options)

    assert [("lies at the edge of those tried" in text) for text in talk.warnings] == [True] * warns


def test_run__too_many_neighbours_are_left_out_and_told(tmp_path: Path, features: Path) -> None:
    summary, talk = solve(features, output=tmp_path / "run", head="knn", penalties="1,60,61,99")

    assert [row["neighbours"] for row in penalty_rows(Path(summary["run"]))] == ["1.0", "60.0"]
    assert "Left out 2 numbers of neighbours above the 60 train rows." in talk.notes
    with pytest.raises(ConfigError, match="--penalties: 61 neighbours are more than the 60 train"):
        solve(features, output=tmp_path / "none", head="knn", penalties="61")
    assert record_of(tmp_path / "none")["status"] == "failed"


def test_run__output_that_is_taken(tmp_path: Path, features: Path) -> None:
    solve(features, output=tmp_path / "run", penalties="1")
    before = all_bytes(tmp_path / "run")

    with pytest.raises(ConfigError, match=r"already holds a run: .*replace it with --overwrite"):
        solve(features, output=tmp_path / "run", penalties="10")
    assert all_bytes(tmp_path / "run") == before

    summary, _ = solve(features, output=tmp_path / "run", penalties="10", overwrite=True)
    assert summary["best"]["C"] == 10


def no_store(root: Path) -> Path:
    return root / "nowhere"


def own_head(root: Path) -> Path:
    """A head apart from its features."""
    (root / "own").mkdir()
    record = {"kind": "classification", "store": str(root / "s")}
    (root / "own" / "run.json").write_text(json.dumps(record))
    return root / "own"


def empty_folder(root: Path) -> Path:
    (root / "empty").mkdir()
    return root / "empty"


@pytest.mark.parametrize(
    ("make", "options", "error", "words"),
    [
        (no_store, {}, DataError, "There is no folder '.*nowhere': give the one that"),
        (own_head, {}, DataError, "a head that was solved on features: give their folder, '.*s'"),
        (empty_folder, {}, DataError, r"is no store of features: it has no manifest\.json"),
        (None, {"penalties": "0"}, ConfigError, "--penalties '0' is not understood"),
        (None, {"shots": "1,x"}, ConfigError, "--shots '1,x' is not understood"),
        (None, {"shots": "21"}, DataError, "--shots 21: the smallest class has 20 train images"),
    ],
)
def test_run__wrong_use_is_told_before_anything_is_written(
    tmp_path: Path,
    features: Path,
    make: Callable[[Path], Path] | None,
    options: dict[str, Any],
    error: type[Exception],
    words: str,
) -> None:
    store = make(tmp_path) if make else features

    with pytest.raises(error, match=words):
        solve(store, output=tmp_path / "run", **options)

    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("lacking", ["train", "val"])
def test_run__part_that_is_not_there_is_told(tmp_path: Path, noisy: Path, lacking: str) -> None:
    data = tmp_path / "photos"
    for split in {"train", "val", "test"} - {lacking}:
        shutil.copytree(noisy / split, data / split)
    extract(data, tmp_path / "s", no_head=True, val_split=0.0)

    with pytest.raises(DataError, match=f"no features of images in the part '{lacking}'"):
        solve(tmp_path / "s")

    assert not list((tmp_path / "s").glob("probe*"))


def test_run__store_of_the_cache_is_found_by_its_name(
    tmp_path: Path, noisy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TLCLI_CACHE_DIR", str(tmp_path / "cache"))
    first, _ = extract(noisy, None, penalties="0.1")
    name = Path(first["store"]).name

    summary, _ = solve(name, penalties="0.1")

    assert summary["store"] == first["store"]
    assert summary["results"] == first["results"]
    assert Path(summary["run"]) == tmp_path / "cache" / "features" / name / "probe-linear"


def test_run__head_of_other_merges_stays_beside_it(
    tmp_path: Path, timm_files: dict[str, Path]
) -> None:
    """The same two classes, made of others: `--classes` with another file, or another content."""
    data = make_image_folder(tmp_path / "photos", images_per_class=10)
    options = {
        "model": "timm/test_vit",
        "weights": timm_files["test_vit"],
        "penalties": "1",
        "classes": tmp_path / "classes.csv",
    }
    heads = []
    for third in ("y", "x", "y"):
        (tmp_path / "classes.csv").write_text(f"ant,x\nbee,{third}\ncat,y\n")
        heads.append(extract(data, tmp_path / "fx", **options)[0]["run"])

    assert [Path(head).name for head in heads] == ["head", "head-2", "head"]
    assert record_of(tmp_path / "fx" / "head-2")["classes"] == ["x", "y"]


def test_run__config_toml_leaves_penalties_to_the_head(tmp_path: Path, features: Path) -> None:
    solve(features, output=tmp_path / "linear")
    options = tomllib.loads((tmp_path / "linear" / "config.toml").read_text())

    solve(features, output=tmp_path / "a", **{**options, "head": "knn"})
    solve(features, output=tmp_path / "b", head="knn")

    assert rows_of(tmp_path / "a" / "penalties.csv") == rows_of(tmp_path / "b" / "penalties.csv")
