import hashlib
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlcli.data.store.shard_header import TensorSpec
from tlcli.data.store.store_manifest import (
    ShardEntry,
    StoreManifest,
    digest_of_key,
    key_differences,
    plain_key,
    read_manifest,
    write_manifest,
)
from tlcli.errors import DataError

MANIFEST = StoreManifest(
    key={"model": "a"},
    tensors={"x": TensorSpec(dtype="float16", shape=(2, 3))},
    shards=(ShardEntry(name="0a", rows=2),),
)
TEXT = """{
  "schema_version": 1,
  "kind": "tensors",
  "key": {
    "model": "a"
  },
  "key_digest": "DIGEST",
  "tensors": {
    "x": {
      "dtype": "float16",
      "shape": [
        2,
        3
      ]
    }
  },
  "shards": [
    {
      "name": "0a",
      "rows": 2
    }
  ]
}
"""


def test_write_manifest__exact_text_and_back(tmp_path: Path) -> None:
    write_manifest(MANIFEST, tmp_path)
    digest = hashlib.sha256(b'{"model":"a"}').hexdigest()
    assert (tmp_path / "manifest.json").read_text() == TEXT.replace("DIGEST", digest)
    assert read_manifest(tmp_path) == MANIFEST
    assert MANIFEST.key_digest == digest


def test_write_manifest__names_that_are_no_unicode(tmp_path: Path) -> None:
    manifest = StoreManifest(key={"weights": "caf\udce9.pt"})
    write_manifest(manifest, tmp_path)
    assert read_manifest(tmp_path) == manifest


def test_read_manifest__none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is no store of features: it has no manifest\.json"):
        read_manifest(tmp_path)


def test_read_manifest__another_version(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"schema_version": 2, "future": []}')
    with pytest.raises(DataError, match="has schema version 2; this tlcli reads version 1"):
        read_manifest(tmp_path)


def change(values: dict[str, Any], name: str, value: Any) -> str:
    return json.dumps({**values, name: value})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        "{}",
        TEXT[:100],
        change(MANIFEST.to_json(), "kind", "images"),
        change(MANIFEST.to_json(), "key", {"model": "b"}),
        change(MANIFEST.to_json(), "key_digest", "0"),
        change(MANIFEST.to_json(), "tensors", {"x": {}}),
        change(MANIFEST.to_json(), "shards", [{"name": "0a"}]),
        change(MANIFEST.to_json(), "shards", [{"name": "../0a", "rows": 2}]),
    ],
)
def test_read_manifest__damaged(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(DataError, match=r"manifest\.json' is damaged \(.+\): restore it, or"):
        read_manifest(tmp_path)


def test_key_differences__names_every_part_with_both_values() -> None:
    there = {"model": "a", "size": [1, 2], "crop": {"pct": 0.9, "mode": "bicubic"}, "old": None}
    here = {"model": "a", "size": [1, 3], "crop": {"pct": 1, "mode": "bicubic"}, "new": "é"}
    assert key_differences(there, here) == [
        "crop.pct is 0.9 there and 1 here",
        'new is not set there and "é" here',
        "old is null there and not set here",
        "size is [1, 2] there and [1, 3] here",
    ]


names = st.text(alphabet='ab."', max_size=3)
plain_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner),
    max_leaves=6,
)
plain_keys = st.dictionaries(names, plain_values, max_size=4)


@given(plain_keys, plain_keys)
def test_key_differences__none_means_the_same_digest(
    there: dict[str, Any], here: dict[str, Any]
) -> None:
    is_same = digest_of_key(there) == digest_of_key(here)
    assert is_same == (not key_differences(there, here))


def test_digest_of_key__order_and_tuples_do_not_matter() -> None:
    assert digest_of_key({"a": (1, 2), "b": 1}) == digest_of_key({"b": 1, "a": [1, 2]})
    assert plain_key({"b": 1, "a": (1, 2)}) == {"a": [1, 2], "b": 1}


@pytest.mark.parametrize("value", [math.nan, math.inf, {1}, Path("a")])
def test_plain_key__refuses_what_json_has_not(value: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        plain_key({"a": value})
