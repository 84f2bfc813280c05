import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from tiny_stores import ids_of, tensors_of
from torch import Tensor

from tlcli.data.store.shard_files import ShardPlan, read_shard, shard_name, specs_of, write_shard
from tlcli.data.store.shard_header import ShardHeader, TensorSpec, find_header
from tlcli.errors import DataError, MachineError

DIGEST = "ab" * 32
IDS = ids_of(range(4))
SPECS = {
    "embedding": TensorSpec(dtype="float16", shape=(3,)),
    "map": TensorSpec(dtype="bfloat16", shape=(2, 2)),
}


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    path = tmp_path / "a.safetensors"
    write_shard(path, ids=IDS, tensors=tensors_of(IDS), key_digest=DIGEST)
    return path


def test_write_shard__exact_bytes(tmp_path: Path) -> None:
    """By the format's own description: length, JSON, tensors by falling size of their type."""
    ids = np.arange(64, dtype=np.uint8).reshape(2, 32)
    tensors = {"x": torch.tensor([[1.0], [2.0]]), "h": torch.tensor([1, 2], dtype=torch.float16)}
    write_shard(tmp_path / "a", ids=ids, tensors=tensors, key_digest=DIGEST)
    header = {
        "__metadata__": {"key": DIGEST},
        "x": {"dtype": "F32", "shape": [2, 1], "data_offsets": [0, 8]},
        "h": {"dtype": "F16", "shape": [2], "data_offsets": [8, 12]},
        "ids": {"dtype": "U8", "shape": [2, 32], "data_offsets": [12, 76]},
    }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    numbers = np.array([1, 2], "<f4").tobytes() + np.array([1, 2], "<f2").tobytes()
    expected = len(text).to_bytes(8, "little") + text + numbers + bytes(range(64))
    assert (tmp_path / "a").read_bytes() == expected


def test_write_shard__same_bytes_whatever_the_order_and_memory_layout(
    tmp_path: Path, shard: Path
) -> None:
    stored = tensors_of(IDS)
    turned = {
        "map": stored["map"].transpose(1, 2).contiguous().transpose(1, 2).requires_grad_(),
        "embedding": stored["embedding"],
    }
    assert not turned["map"].is_contiguous()
    write_shard(tmp_path / "b", ids=IDS, tensors=turned, key_digest=DIGEST)
    assert (tmp_path / "b").read_bytes() == shard.read_bytes()


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"x": torch.zeros(3, 2)}, "'x' has 3 rows for 4 ids"),
        ({"x": torch.zeros(4, 2, dtype=torch.int64)}, r"'x' is torch\.int64; stored are"),
        ({"ids": torch.zeros(4, 2)}, "A tensor cannot be called 'ids'"),
        ({"../x": torch.zeros(4, 2)}, r"A tensor cannot be called '\.\./x'"),
        ({"": torch.zeros(4, 2)}, "A tensor cannot be called ''"),
    ],
)
def test_write_shard__refuses(tmp_path: Path, tensors: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_shard(tmp_path / "a", ids=IDS, tensors=tensors, key_digest=DIGEST)
    assert not list(tmp_path.iterdir())


def test_find_header__says_what_was_written(shard: Path) -> None:
    assert find_header(shard) == ShardHeader(key_digest=DIGEST, rows=4, tensors=SPECS)
    assert specs_of(tensors_of(IDS)) == SPECS


def test_find_header__none_at_every_length_but_the_right_one(shard: Path) -> None:
    whole = shard.read_bytes()
    for length in [*range(0, len(whole), 7), len(whole) - 1]:
        shard.write_bytes(whole[:length])
        assert find_header(shard) is None, length
    shard.write_bytes(whole + b"\0")
    assert find_header(shard) is None
    shard.write_bytes(whole)
    assert find_header(shard) is not None


@pytest.mark.parametrize(
    ("tensors", "metadata"),
    [
        ({"x": torch.zeros(4, 2)}, {"key": DIGEST}),
        ({"ids": torch.zeros(4, 32)}, {"key": DIGEST}),
        ({"ids": torch.zeros(4, 31, dtype=torch.uint8)}, {"key": DIGEST}),
        ({"ids": torch.zeros(4, 32, dtype=torch.uint8)}, None),
        ({"ids": torch.zeros(4, 32, dtype=torch.uint8)}, {"format": "pt"}),
        (
            {"ids": torch.zeros(4, 32, dtype=torch.uint8), "x": torch.zeros(4).double()},
            {"key": DIGEST},
        ),
    ],
    ids=["no ids", "ids of another type", "short ids", "no metadata", "no key", "another type"],
)
def test_find_header__none_for_files_of_others(
    tmp_path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None
) -> None:
    safetensors.torch.save_file(tensors, tmp_path / "a", metadata=metadata)
    assert find_header(tmp_path / "a") is None


def test_find_header__none_if_missing_or_noise(tmp_path: Path) -> None:
    assert find_header(tmp_path / "a") is None
    (tmp_path / "a").write_bytes(hashlib.sha512(b"noise").digest() * 9)
    assert find_header(tmp_path / "a") is None


def test_find_header__unreadable(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match=r"Cannot read '.*': .+"):
        find_header(tmp_path)


def test_read_shard__chosen_tensors_bit_for_bit(shard: Path) -> None:
    expected = ShardHeader(key_digest=DIGEST, rows=4, tensors=SPECS)
    read = read_shard(shard, expected=expected, names=("map", "ids"))
    assert list(read) == ["map", "ids"]
    assert read["map"].dtype == torch.bfloat16
    assert torch.equal(read["map"], tensors_of(IDS)["map"])
    assert np.array_equal(read["ids"].numpy(), IDS)


@pytest.mark.parametrize("damage", ["missing", "cut off", "other rows", "other key"])
def test_read_shard__not_the_expected(shard: Path, damage: str) -> None:
    rows, digest = 4, DIGEST
    if damage == "missing":
        shard.unlink()
    elif damage == "cut off":
        shard.write_bytes(shard.read_bytes()[:-1])
    elif damage == "other rows":
        rows = 5
    else:
        digest = "cd" * 32
    expected = ShardHeader(key_digest=digest, rows=rows, tensors=SPECS)
    with pytest.raises(
        DataError,
        match=rf"The shard '.*a\.safetensors' is missing or damaged\. Run the command .*: only its"
        rf" {rows} rows are computed anew",
    ):
        read_shard(shard, expected=expected, names=("map",))


def test_shard_name__from_key_and_ids_alone() -> None:
    expected = hashlib.sha256(bytes.fromhex(DIGEST) + IDS.tobytes()).hexdigest()[:32]
    assert shard_name(IDS, key_digest=DIGEST) == expected
    assert shard_name(IDS[::-1], key_digest=DIGEST) != expected
    assert shard_name(IDS, key_digest="cd" * 32) != expected


def test_shard_plan__equal_by_name() -> None:
    plans = [ShardPlan(name="a", ids=IDS, positions=np.arange(4)) for _ in range(2)]
    assert plans[0] == plans[1]
    assert len(plans[0]) == 4
    assert repr(plans[0]) == "ShardPlan(name='a')"
