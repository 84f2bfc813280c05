"""The command that is proposed next; tests/cli runs it as it is printed."""

import shlex
from pathlib import Path
from typing import Any

import pytest

from tlcli.config import ExtractConfig, options_of
from tlcli.recipes.next_command import next_after_features, next_after_head


def head_record(*, layers: tuple[str, ...] = (), **options: Any) -> dict[str, Any]:
    config = {**options_of(ExtractConfig()), "data": "/d", "model": "timm/test_vit", **options}
    return {"config": config, "features": {"layers": list(layers)}}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, []),
        ({"val_split": 0.25, "limit": 5}, ["--val-split", "0.25", "--limit", "5"]),
        ({"on_bad_image": "skip", "offline": True}, ["--on-bad-image", "skip", "--offline"]),
        ({"in_channels": 1, "input_size": 64}, ["--input-size", "64", "--in-channels", "1"]),
        (
            {"fold": "1/5", "classes": "/a b.csv", "label_column": "my kind"},
            ["--fold", "1/5", "--classes", "/a b.csv", "--label-column", "my kind"],
        ),
        (
            {"weights": "/a b/w.pth", "mean": "0.5", "std": "0.1,0.2,0.3", "seed": 7},
            ["--weights", "/a b/w.pth", "--mean", "0.5", "--std", "0.1,0.2,0.3", "--seed", "7"],
        ),
        ({"device": "cpu", "dtype": "float32", "penalties": "1", "head": "ridge"}, []),
    ],
    ids=str,
)
def test_next_after_head__carries_what_decides_the_features(
    options: dict[str, Any], words: list[str]
) -> None:
    command = next_after_head(head_record(**options), run=Path("my head"))

    assert shlex.split(command) == [
        *("tlcli", "finetune", "--data", "/d", "--model", "timm/test_vit", *words),
        *("--init-head", "my head", "--unfreeze", "last:1"),
    ]


def test_next_after_head__of_a_record_from_before_an_option_existed() -> None:
    record = head_record()
    del record["config"]["mean"]
    assert "--mean" not in next_after_head(record, run=Path("r"))


@pytest.mark.parametrize("record", [head_record(head="knn"), head_record(layers=("layer4",))])
def test_next_after_head__that_cannot_be_started_from_is_evaluated(record: dict[str, Any]) -> None:
    assert next_after_head(record, run=Path("my run")) == "tlcli evaluate 'my run'"


@pytest.mark.parametrize(
    ("pool", "splits", "command"),
    [
        (None, ("train", "val", "test"), "tlcli probe 'my f'"),
        ("max", ("train", "val"), "tlcli probe 'my f'"),
        ("none", ("train", "val"), "tlcli cache export 'my f' --output embeddings"),
        (None, ("test",), "tlcli cache export 'my f' --output embeddings"),
    ],
)
def test_next_after_features__is_a_probe_where_that_can_be(
    pool: str | None, splits: tuple[str, ...], command: str
) -> None:
    record = {"features": {"pool": pool}, "data": {"counts": dict.fromkeys(splits, 1)}}
    assert next_after_features(record, store=Path("my f")) == command
