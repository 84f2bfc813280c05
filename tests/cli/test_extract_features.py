import json
import os
import re
import shlex
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from recipes.feature_runs import weight_file
from typer.testing import Result

from tlcli.recipes import store_filling

Invoke = Callable[..., Result]
SMALL = ("--model", "timm/test_vit", "--weights", "none", "--device", "cpu", "-j", "2")
KEYS = {
    *("schema_version", "run", "store", "model", "status", "best", "results", "features"),
    *("frozen", "trunk_cache", "seconds", "next"),
}
METRICS = {"top1", "top5", "macro_f1", "loss", "ece"}


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out most of the time of a small run; tests/results has the pictures."""
    for name in (
        "results.evaluation_files.draw_confusion_matrix",
        "recipes.probing.draw_penalty_path",
    ):
        monkeypatch.setattr(f"tlcli.{name}", lambda *_, **__: None)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("TLCLI_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_extract_features__json_is_one_document_and_talk_is_elsewhere(
    tlcli: Invoke, photos: Path
) -> None:
    result = tlcli("extract-features", "-d", photos, *SMALL, "-o", "features", "--json")

    document = json.loads(result.stdout)  # exactly one: anything more is an error
    assert result.exit_code == 0, result.stderr
    assert set(document) == {*KEYS, "head", "few_shot"}
    assert (document["schema_version"], document["status"]) == (1, "finished")
    assert (document["run"], document["store"]) == ("features/head", "features")
    assert (document["head"], document["few_shot"]) == ("linear", None)
    assert {"C", "metric", "value", "objective", "gap", "converged"} <= set(document["best"])
    assert set(document["results"]) == {"val"}
    assert set(document["results"]["val"]["metrics"]) == METRICS
    assert set(document["frozen"]) >= {"tensors", "buffers", "changed"}
    assert document["frozen"]["changed"] == 0
    assert set(document["trunk_cache"]) == {"hits", "misses", "copies", "bytes"}
    assert document["trunk_cache"]["misses"] == 15
    assert set(document["seconds"]) == {"extract", "head", "evaluation", "total"}
    assert "Model: timm/test_vit, weights none." in result.stderr
    assert "using" not in result.stderr


def test_extract_features__no_head_as_json(tlcli: Invoke, photos: Path) -> None:
    result = tlcli("extract-features", "-d", photos, *SMALL, "-o", "f", "--no-head", "--json")

    document = json.loads(result.stdout)
    assert set(document) == KEYS
    assert (document["run"], document["best"], document["results"]) == (None, None, {})
    assert document["features"]["dims"] == {"embedding": [64]}


def test_extract_features__summary_says_where_everything_is_and_what_next(
    tlcli: Invoke, photos: Path
) -> None:
    words = ("extract-features", "-d", photos, *SMALL, "-o", "features", "--quiet")
    result = tlcli(*words, "--penalties", "0.01,1e6", "--shots", "1,3", "--repeats", "2")

    assert result.exit_code == 0, result.stderr
    lines = [line.rstrip() for line in result.stdout.splitlines()]
    assert lines[0].startswith("val: 6 images, chosen by val/top1 (C ")
    assert "few-shot, val top-1, 2 draws" in lines
    features = next(line for line in lines if line.startswith("Features: "))
    assert features.startswith(
        "Features: 15 rows (embedding 64; float16), 0.0 MB; 0 were there, 15"
    )
    assert "Store: features" in lines
    assert "Run folder: features/head" in lines
    assert lines[-1] == (
        f"Next: tlcli finetune --data {photos} --model timm/test_vit --weights none "
        "--init-head features/head --unfreeze last:1"
    )
    assert "\x1b" not in result.stdout


@pytest.mark.parametrize(
    ("words", "command"),
    [
        ([], "finetune"),
        (["--head", "ridge", "--seed", "3", "--limit", "6"], "finetune"),
        (["--model", "timm/test_resnet", "--weights", "FILE", "--mean", "0.2"], "finetune"),
        (["--head", "knn", "--penalties", "1,3"], "evaluate"),
        (["--layer", "blocks.2"], "evaluate"),
        (["--no-head"], "probe"),
        (["--no-head", "--layer", "blocks.2", "--pool", "none"], "cache"),
    ],
    ids="_".join,
)
def test_extract_features__next_works_as_it_is_printed(
    tlcli: Invoke, photos: Path, tmp_path: Path, words: list[str], command: str
) -> None:
    file = weight_file(tmp_path / "my weights.safetensors", name="test_resnet")
    data = shutil.copytree(photos, tmp_path / "my photos")
    given = [file.name if word == "FILE" else word for word in words]

    printed = tlcli("extract-features", "-d", data.name, *SMALL, "-o", "my f", "-q", *given)
    lines = [printed.stdout.splitlines()[-1]]
    if command == "finetune":
        lines.append(tlcli("probe", "my f", "-q", "--penalties", "1").stdout.splitlines()[-1])

    for number, line in enumerate(lines):
        start, _, text = line.partition("Next: tlcli ")
        done = tlcli(*shlex.split(text), *(["--epochs", "1"] * (command == "finetune")))
        assert (start, text.split()[0]) == ("", command)
        assert done.exit_code == 0, (number, text, done.stderr)


def test_extract_features__says_what_this_command_did(
    tlcli: Invoke, photos: Path, tmp_path: Path
) -> None:
    data = shutil.copytree(photos, tmp_path / "photos")
    shutil.copy(data / "train" / "ant" / "0.png", data / "train" / "ant" / "copy.png")
    words = ("extract-features", "-d", data, *SMALL, "-o", "f", "-q", "--penalties", "1")

    told = []
    for command in (words, words, ("probe", "f", "-q", "--shots", "1")):
        (line,) = (one for one in tlcli(*command).stdout.splitlines() if "Features: " in one)
        told.append(line.partition(" MB; ")[2])

    part = r"\d+\.\d s"
    there = r"15 were there, 0 computed, 1 exact copy\. Time: "
    ends = rf"solving heads {part}, evaluation {part}"
    new = r"0 were there, 15 computed, 1 exact copy\. Time: "
    assert re.fullmatch(rf"{new}features {part}, {ends}\.", told[0])
    assert re.fullmatch(rf"{there}features {part}, {ends}\.", told[1])
    assert re.fullmatch(rf"{there}{ends}, few-shot draws {part}\.", told[2])


def test_extract_features__no_head_says_how_to_solve_one(tlcli: Invoke, photos: Path) -> None:
    result = tlcli("extract-features", "-d", photos, *SMALL, "-o", "f", "--no-head", "-q")

    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines()[-2:] == ["Store: f", "Next: tlcli probe f"]


def test_extract_features__the_same_command_again_computes_nothing(
    tlcli: Invoke, photos: Path, own_cache: Path
) -> None:
    words = ("extract-features", "-d", photos, *SMALL, "--penalties", "1")
    first, second = tlcli(*words, "--json"), tlcli(*words, "--json")

    documents = [json.loads(result.stdout) for result in (first, second)]
    assert [one["trunk_cache"]["misses"] for one in documents] == [15, 0]
    assert documents[0]["results"] == documents[1]["results"]
    assert Path(documents[0]["store"]).parent == own_cache / "features"
    assert "0 of 15 rows to compute." in second.stderr


def test_extract_features__leaderboard(tlcli: Invoke, photos: Path, tmp_path: Path) -> None:
    words = ("extract-features", "-d", photos, "--weights", "none", "--device", "cpu", "-j", "2")
    models = ("--model", "timm/test_vit,timm/test_resnet", "--penalties", "1", "-o", "all")

    plain = tlcli(*words, *models)
    document = json.loads(tlcli(*words, *models, "--json").stdout)

    assert plain.exit_code == 0, plain.stderr
    assert plain.stdout.startswith("Ranked by validation top-1, with 95 % intervals; behind: ")
    runs = {f"Run folder: all/{name}/head" for name in ("test_vit", "test_resnet")}
    assert set(plain.stdout.splitlines()[-2:]) == runs
    assert set(document) == {"schema_version", "leaderboard", "runs"}
    assert [set(one) for one in document["runs"]] == [{*KEYS, "head", "few_shot"}] * 2
    assert {one["trunk_cache"]["misses"] for one in document["runs"]} == {0}
    assert document["leaderboard"][0]["behind"] == 0
    assert (tmp_path / "all" / "leaderboard.csv").is_file()


def test_extract_features__jobs_of_an_array(tlcli: Invoke, photos: Path) -> None:
    words = ("extract-features", "-d", photos, *SMALL, "-o", "f", "--json")

    first, last = tlcli(*words, "--shard", "2/2"), tlcli(*words, "--shard", "1/2")

    assert (first.exit_code, json.loads(first.stdout)["missing_shards"]) == (0, 1)
    assert "1 of 1 shard is still to be written by other jobs." in first.stderr
    assert json.loads(last.stdout)["trunk_cache"]["misses"] == 15


@pytest.mark.parametrize(
    ("words", "exit_code", "message"),
    [
        (["--layer", "layer9"], 2, "--layer 'layer9' matches no stage"),
        (["--pool", "avg"], 2, "--pool avg works on --layer"),
        (["--layer", "blocks.1", "--pool", "none"], 2, "--pool none keeps whole maps"),
        (["--pool", "mean"], 2, None),
        (["--penalties", "a"], 2, "--penalties 'a' is not understood"),
        (["--head", "knn", "--penalties", "1.5"], 2, "--penalties '1.5': for knn these are whole"),
        (["--shots", "0"], 2, "--shots '0' is not understood"),
        (["--shots", "4"], 3, "--shots 4: the smallest class has 3 train images."),
        (["--shard", "0/3"], 2, "--shard '0/3' is not understood"),
        (["--shard", "4/3"], 2, "--shard '4/3' is not understood"),
        (["--shard", "x"], 2, "--shard 'x' is not understood"),
        (["--shard", "1/2", "--overwrite"], 2, "--overwrite with --shard would delete"),
        (["--verify", "2"], 2, "--verify must be a share in 0..1, not 2"),
        (["--views", "-1"], 2, "--views must be 0"),
        (["--no-head", "--shots", "1"], 2, "--head, --penalties, --shots and --monitor have no"),
        (
            ["--model", "timm/test_vit,timm/test_vit"],
            2,
            "--model timm/test_vit,timm/test_vit names",
        ),
        (["--weights", "none,none"], 4, "--weights 'none,none' is no weight tag"),
        (["--model", "timm/nonsense"], 4, "No model is called 'timm/nonsense'"),
        (["--data", "nowhere"], 3, "There is no data at"),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, list) else None,
)
def test_mistake__is_one_line_and_an_exit_code(
    tlcli: Invoke, photos: Path, words: list[str], exit_code: int, message: str | None
) -> None:
    given = ["--data", photos, *SMALL, "-o", "f"]
    for option in set(words[::2]) & {"--data", "--model", "--weights"}:
        place = given.index(option)
        del given[place : place + 2]

    result = tlcli("extract-features", *given, *words)

    assert (result.exit_code, result.stdout) == (exit_code, "")
    assert "Traceback" not in result.stderr
    if message:
        assert result.stderr.splitlines()[-1].startswith(f"error: {message}")
        assert result.stderr.count("error: ") == 1


def test_extract_features__folder_of_something_else_is_not_touched(
    tlcli: Invoke, photos: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(photos, tmp_path / "photos")
    before = sorted(copy.rglob("*"))

    result = tlcli("extract-features", "-d", photos, *SMALL, "-o", copy)

    assert (result.exit_code, result.stdout) == (2, "")
    assert "is not empty and holds no features: choose another --output" in result.stderr
    assert sorted(copy.rglob("*")) == before


def test_extract_features__other_settings_name_what_differs(tlcli: Invoke, photos: Path) -> None:
    words = ("extract-features", "-d", photos, *SMALL, "-o", "f", "--no-head", "-q")
    tlcli(*words)

    result = tlcli(*words, "--dtype", "float32")

    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        'error: \'f\' was computed with other settings: dtype is "float16" there and "float32" '
        "here. Choose another --output, or start it anew with --overwrite.\n"
    )


def test_extract_features__bad_image_is_named(tlcli: Invoke, photos: Path, tmp_path: Path) -> None:
    data = shutil.copytree(photos, tmp_path / "photos")
    (data / "val" / "bee" / "1.png").write_bytes(b"no picture")

    failed = tlcli("extract-features", "-d", data, *SMALL, "-o", "f", "-q")
    skipped = tlcli(
        "extract-features", "-d", data, *SMALL, "-o", "f", "-q", "--on-bad-image", "skip"
    )

    assert (failed.exit_code, failed.stdout) == (3, "")
    assert failed.stderr.startswith("error: ")
    assert "val/bee/1.png" in failed.stderr
    assert "--on-bad-image skip" in failed.stderr
    assert skipped.exit_code == 0, skipped.stderr
    assert "warning: left out: " in skipped.stderr
    assert "Features: 14 rows" in skipped.stdout


def test_extract_features__ctrl_c_says_how_to_go_on(
    tlcli: Invoke, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed, seen = store_filling._embed, []

    def embed_and_interrupt(job: Any, rows: Any) -> Any:
        seen.append(rows)
        if len(seen) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return embed(job, rows)

    words = ("extract-features", "-d", photos, *SMALL, "-b", "2", "-o", "f", "--json")
    with monkeypatch.context() as patch:
        patch.setattr(store_filling, "_embed", embed_and_interrupt)
        stopped = tlcli(*words)

    assert (stopped.exit_code, stopped.stdout) == (130, "")
    assert stopped.stderr.splitlines()[-1] == (
        "error: Stopped; 0 of 15 rows are kept in f. The same command goes on from there."
    )
    assert json.loads(tlcli(*words).stdout)["status"] == "finished"


def test_extract_features__config_file(tlcli: Invoke, photos: Path, tmp_path: Path) -> None:
    tlcli("extract-features", "-d", photos, *SMALL, "-o", "a", "--layer", "blocks.2", "--no-head")

    again = tlcli("extract-features", "-c", tmp_path / "a" / "config.toml", "-o", "b", "--json")

    assert again.exit_code == 0, again.stderr
    document = json.loads(again.stdout)
    assert (document["store"], document["features"]["layers"]) == ("b", ["blocks.2"])
    assert (tmp_path / "a" / "manifest.json").read_bytes() == (
        tmp_path / "b" / "manifest.json"
    ).read_bytes()


def test_extract_features__without_data_it_says_what_it_uses(tlcli: Invoke) -> None:
    words = ("--weights", "none", "--model", "timm/test_vit", "--limit", "10", "--device", "cpu")
    result = tlcli("extract-features", *words, "--no-head", "-o", "f")

    assert result.exit_code == 0, result.stderr
    assert "No --data given: using sample:digits." in result.stderr
    assert "No --model given" not in result.stderr


@pytest.mark.slow
def test_extract_features__users_own_example(tlcli: Invoke) -> None:
    result = tlcli("extract-features", "--weights", "none", "--limit", "20")

    assert result.exit_code == 0, result.stderr
    assert "No --model given: using resnet50." in result.stderr
