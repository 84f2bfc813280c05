import hashlib
import pickle
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tlcli.backbones.weight_files import (
    KeyReport,
    compare_keys,
    head_classes,
    load_state,
    read_state_dict,
    sha256_of,
)
from tlcli.errors import WeightsError


class Net(nn.Module):
    """Two convolutions with BatchNorm, ten linear body layers and a head."""

    def __init__(self, *, num_classes: int = 3, width: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3)
        self.bn = nn.BatchNorm2d(width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(10))
        self.head = nn.Linear(width, num_classes)


class Trap:
    """Unpickling it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.path), "w"))


def state(module: nn.Module) -> dict[str, Tensor]:
    return {key: tensor.clone() for key, tensor in module.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


@pytest.fixture
def tensors() -> dict[str, Tensor]:
    return {"a.weight": torch.arange(6.0).reshape(2, 3), "a.count": torch.tensor(7)}


@pytest.mark.parametrize("name", ["w.pth", "w.pt", "w.bin", "w.pth.tar", "w.PTH"])
@pytest.mark.parametrize("zipped", [True, False])
def test_read_state_dict__pickled(
    tmp_path: Path, tensors: dict[str, Tensor], name: str, zipped: bool
) -> None:
    path = tmp_path / name
    torch.save(OrderedDict(tensors), path, _use_new_zipfile_serialization=zipped)
    found = read_state_dict(path)
    assert same(found.tensors, tensors)
    assert found.remarks == ()
    assert found.path == path
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest() == sha256_of(path)


def test_read_state_dict__safetensors(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    path = tmp_path / "w.safetensors"
    save_file(tensors, path)
    assert same(read_state_dict(path).tensors, tensors)


def test_read_state_dict__parameters_become_plain_tensors(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({"w": nn.Parameter(torch.ones(2))}, path)
    tensor = read_state_dict(path).tensors["w"]
    assert type(tensor) is Tensor
    assert not tensor.requires_grad


@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
def test_read_state_dict__unwraps_and_tells(
    tmp_path: Path, tensors: dict[str, Tensor], wrapper: str
) -> None:
    path = tmp_path / "w.pth"
    wrapped = {f"module._orig_mod.{key}": tensor for key, tensor in tensors.items()}
    torch.save({"epoch": 3, wrapper: wrapped, "optimizer": {}}, path)
    found = read_state_dict(path)
    assert same(found.tensors, tensors)
    assert found.remarks == (
        f"took '{wrapper}' of the file, not: epoch, optimizer",
        "removed the prefix 'module.' from every key",
        "removed the prefix '_orig_mod.' from every key",
    )


def test_read_state_dict__prefix_of_some_keys_stays(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({"module.a": torch.ones(1), "b": torch.ones(1)}, path)
    found = read_state_dict(path)
    assert list(found.tensors) == ["module.a", "b"]
    assert found.remarks == ()


def test_read_state_dict__tells_what_is_no_tensor(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({"a": torch.ones(1), "epoch": 3, 5: torch.ones(1)}, path)
    found = read_state_dict(path)
    assert list(found.tensors) == ["a"]
    assert found.remarks == ("left out, not named tensors: epoch (int), 5 (Tensor)",)


def test_read_state_dict__tells_half_precision(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"a": torch.ones(2, dtype=torch.float16), "n": torch.tensor(1)}, path)
    assert read_state_dict(path).remarks == ("stored as float16",)


@pytest.mark.parametrize(
    ("content", "remark"),
    [
        (
            {"model": {"w": torch.ones(2)}, "ema": {"decay": 0.99, "updates": torch.tensor(3)}},
            "took 'model' of the file, not: ema",
        ),
        (
            {"model_ema": {}, "model": {"state_dict": {"w": torch.ones(2)}}, "ema": {"model": {}}},
            "took 'model' of the file, not: model_ema, ema",
        ),
        (
            {"ema": {"decay": 0.9, "shadow": {"w": torch.ones(2)}}, "model": {"w": torch.zeros(2)}},
            "took 'ema' of the file, not: model",
        ),
    ],
    ids=["options_of_an_average", "empty_average", "shadow"],
)
def test_read_state_dict__wrappers_without_tensors_are_passed_over(
    tmp_path: Path, content: Any, remark: str
) -> None:
    path = tmp_path / "w.pth"
    torch.save(content, path)
    file = read_state_dict(path)
    assert {key: tensor.tolist() for key, tensor in file.tensors.items()} == {"w": [1, 1]}
    assert file.remarks[0] == remark


@pytest.mark.parametrize(
    ("content", "seen"),
    [
        ({}, ""),
        ([torch.ones(1)], r" but one value \(list\)"),
        (torch.ones(1), r" but one value \(Tensor\)"),
        ({"epoch": 1, "ema": {}}, r" but epoch \(int\), ema \(dict\)"),
    ],
    ids=["empty", "list", "tensor", "others"],
)
def test_read_state_dict__no_named_tensors(tmp_path: Path, content: Any, seen: str) -> None:
    path = tmp_path / "w.pth"
    torch.save(content, path)
    with pytest.raises(WeightsError, match=rf"w\.pth holds no tensors{seen}\. Give a file with"):
        read_state_dict(path)


def test_read_state_dict__missing(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"There is no weights file .*w\.pth\. Check the path"):
        read_state_dict(tmp_path / "w.pth")


def test_read_state_dict__folder(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="is not a file"):
        read_state_dict(tmp_path)


def test_read_state_dict__unknown_suffix(tmp_path: Path) -> None:
    (tmp_path / "w.onnx").touch()
    with pytest.raises(
        WeightsError, match=r"\('\.onnx'\)\. These can be read: \.safetensors, \.pth"
    ):
        read_state_dict(tmp_path / "w.onnx")


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_read_state_dict__lfs_pointer(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")
    with pytest.raises(WeightsError, match=r"only a git-lfs pointer.*git lfs pull"):
        read_state_dict(path)


def test_read_state_dict__never_runs_code(tmp_path: Path) -> None:
    path, proof = tmp_path / "w.pth", tmp_path / "proof"
    torch.save({"a": torch.ones(1), "x": Trap(proof)}, path)
    with pytest.raises(WeightsError, match=r"more than tensors \(io\.open\).*as \.safetensors"):
        read_state_dict(path)
    assert not proof.exists()


def test_read_state_dict__plain_pickle_never_runs_code(tmp_path: Path) -> None:
    path, proof = tmp_path / "w.bin", tmp_path / "proof"
    path.write_bytes(pickle.dumps(Trap(proof)))
    with pytest.raises(WeightsError, match=r"w\.bin"):
        read_state_dict(path)
    assert not proof.exists()


def test_read_state_dict__torchscript(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)).save(str(path))
    with pytest.raises(
        WeightsError, match=r"TorchScript archive, a program. Give the model's state"
    ):
        read_state_dict(path)


def test_read_state_dict__unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "w.pth"
    path.touch(mode=0o000)

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # root may read anything
    with pytest.raises(WeightsError, match="may not be read by you"):
        read_state_dict(path)


def test_read_state_dict__sha_prefix(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    path = tmp_path / "w.safetensors"
    save_file(tensors, path)
    right = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    assert same(read_state_dict(path, sha_prefix=right).tensors, tensors)
    wrong = "0" * 8 if right != "0" * 8 else "1" * 8
    with pytest.raises(WeightsError, match=f"starts with {right}, expected {wrong}. Delete it"):
        read_state_dict(path, sha_prefix=wrong)


def _saved(folder: Path, name: str) -> bytes:
    path = folder / name
    values = {"layer.weight": torch.arange(12.0).reshape(3, 4), "layer.n": torch.tensor(1)}
    if path.suffix == ".safetensors":
        save_file(values, path)
    else:
        torch.save(values, path, _use_new_zipfile_serialization=path.suffix != ".pt")
    return path.read_bytes()


@pytest.mark.parametrize("name", ["w.pth", "w.pt", "w.safetensors"])
@pytest.mark.parametrize("keep", [0, 1, 9, 0.3, 0.6, 0.9])
def test_read_state_dict__cut_off(tmp_path: Path, name: str, keep: float) -> None:
    whole = _saved(tmp_path, name)
    path = tmp_path / name
    path.write_bytes(whole[: keep if isinstance(keep, int) else int(keep * len(whole))])
    with pytest.raises(WeightsError, match=r"bytes\) is damaged, cut off or not a weights file"):
        read_state_dict(path)


@pytest.mark.parametrize("name", ["w.pth", "w.pt", "w.safetensors"])
@settings(
    deadline=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(changes=st.dictionaries(st.floats(0, 1, exclude_max=True), st.integers(0, 255), min_size=1))
def test_read_state_dict__damaged_bytes_never_escape(
    tmp_path: Path, name: str, changes: dict[float, int]
) -> None:
    content = bytearray(_saved(tmp_path, name))
    for place, value in changes.items():
        content[int(place * len(content))] = value
    (tmp_path / name).write_bytes(content)
    message = ""
    try:
        found = read_state_dict(tmp_path / name)
    except WeightsError as error:
        message = str(error)
        event(re.sub(r".*(is damaged|holds|TorchScript|more than).*", r"\1", str(error)))
    else:
        event("read")
        assert all(isinstance(tensor, Tensor) for tensor in found.tensors.values())
    assert "\n" not in message


def test_load_state__copies_all_bit_for_bit() -> None:
    source, target = Net(), Net()
    source.bn.num_batches_tracked.fill_(5)
    report = load_state(target, state(source), head_names=["head"], origin="w.pth")
    assert same(state(target), state(source))
    assert report == KeyReport(
        matched=tuple(source.state_dict()), missing=(), unexpected=(), wrong_shape=(), head_keys=()
    )
    assert report.table() == "matched: 29"
    assert report.remarks() == ()


def test_load_state__other_number_of_classes_leaves_whole_head() -> None:
    source, target = Net(num_classes=7), Net(num_classes=3)
    head = {key: tensor.clone() for key, tensor in target.head.state_dict().items()}
    report = load_state(target, state(source), head_names=["head"], origin="w.pth")
    assert report.head_keys == ("head.weight", "head.bias")
    assert same(dict(target.head.state_dict()), head)
    assert torch.equal(target.conv.weight, source.conv.weight)
    assert report.remarks() == ("head left as it was in the model: head.weight, head.bias",)
    assert report.table() == "matched: 27\nhead, left as it was: 2\n  head.weight\n  head.bias"


def test_load_state__half_a_head_is_not_copied() -> None:
    source, target = Net(), Net()
    before = target.head.weight.detach().clone()
    tensors = state(source)
    del tensors["head.bias"]
    report = load_state(target, tensors, head_names=["head"], origin="w.pth")
    assert report.head_keys == ("head.weight", "head.bias")
    assert torch.equal(target.head.weight, before)


def test_load_state__head_of_the_file_that_the_model_lacks() -> None:
    source, target = Net(), Net()
    target.head = nn.Identity()  # type: ignore[assignment]
    report = load_state(target, state(source), head_names=["head"], origin="w.pth")
    assert report.head_keys == ("head.weight", "head.bias")
    assert torch.equal(target.conv.weight, source.conv.weight)


def test_load_state__head_name_is_no_prefix_of_other_names() -> None:
    target = Net()
    tensors = {**state(Net()), "header.weight": torch.ones(1)}
    with pytest.raises(WeightsError, match=r"unexpected .*: 1\n  header\.weight"):
        load_state(target, tensors, head_names=["head"], origin="w.pth")


def test_load_state__without_head_names_the_head_is_body() -> None:
    with pytest.raises(WeightsError, match=r"head\.weight  \(7, 4\) / \(3, 4\)"):
        load_state(Net(), state(Net(num_classes=7)), head_names=[], origin="w.pth")


def test_load_state__other_architecture_changes_nothing() -> None:
    target = Net(width=5)
    before = state(target)
    with pytest.raises(WeightsError) as caught:
        load_state(target, state(Net()), head_names=["head"], origin="w.pth")
    # Of 26 body tensors besides the batch counter none fits; the counter does.
    assert str(caught.value).splitlines()[:3] == [
        "w.pth cannot be loaded: the file fits another architecture (4% of the model's tensors "
        "match). Name the model that the weights were made for, or another file.",
        "matched: 1",
        "wrong shape (file / model): 26",
    ]
    assert str(caught.value).splitlines()[-4:] == [
        "  and 18 more",
        "head, left as it was: 2",
        "  head.weight",
        "  head.bias",
    ]
    assert same(state(target), before)


@pytest.mark.parametrize(
    ("removed", "words"), [(2, "some of its keys"), (3, "another architecture")]
)
def test_load_state__nine_tenths_divide_the_two_messages(removed: int, words: str) -> None:
    tensors = state(Net())  # 27 body tensors: 25/27 = 92.6 %, 24/27 = 88.9 %
    for key in [f"layers.{index}.bias" for index in range(removed)]:
        del tensors[key]
    target = Net()
    before = state(target)
    with pytest.raises(WeightsError, match=f"cannot be loaded: .*{words}"):
        load_state(target, tensors, head_names=["head"], origin="w.pth")
    assert same(state(target), before)


def test_load_state__unexpected_body_key() -> None:
    tensors = {**state(Net()), "layers.10.weight": torch.ones(4, 4)}
    with pytest.raises(
        WeightsError, match=r"some of its keys(.|\n)*unexpected .*: 1\n  layers\.10"
    ):
        load_state(Net(), tensors, head_names=["head"], origin="w.pth")


def test_load_state__old_file_without_batch_counters() -> None:
    source, target = Net(), Net()
    source.bn.running_mean.fill_(0.5)
    tensors = state(source)
    del tensors["bn.num_batches_tracked"]
    report = load_state(target, tensors, head_names=["head"], origin="w.pth")
    assert report.missing == ("bn.num_batches_tracked",)
    assert report.remarks() == ("1 batch counter of BatchNorm is on one side only",)
    assert torch.equal(target.bn.running_mean, torch.full((4,), 0.5))


def test_load_state__many_missing_counters_do_not_count_against_the_body() -> None:
    target = nn.Sequential(*(nn.BatchNorm1d(2) for _ in range(4)))  # a fifth of all keys
    tensors = {k: v + 1 for k, v in state(target).items() if "num_batches" not in k}
    report = load_state(target, tensors, head_names=[], origin="w.pth")
    assert len(report.missing) == 4
    assert torch.equal(target[3].weight, torch.full((2,), 2.0))


def test_load_state__quantised_weights_are_refused() -> None:
    target = Net()
    before = state(target)
    tensors = state(Net())
    tensors["conv.weight"] = tensors["conv.weight"].to(torch.int8)
    with pytest.raises(WeightsError, match=r"'conv\.weight' is torch\.int8.*not quantised"):
        load_state(target, tensors, head_names=["head"], origin="w.pth")
    assert same(state(target), before)


def test_load_state__half_precision_is_widened_exactly() -> None:
    target = nn.Linear(2, 2)
    tensors = {"weight": torch.rand(2, 2).half(), "bias": torch.rand(2).half()}
    load_state(target, tensors, head_names=[], origin="w.pth")
    assert target.weight.dtype == torch.float32
    assert torch.equal(target.weight, tensors["weight"].float())


@given(
    ours=st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 3)),
    theirs=st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 3)),
)
def test_compare_keys__agrees_with_set_arithmetic(
    ours: dict[str, int], theirs: dict[str, int]
) -> None:
    module = nn.ParameterDict({key: torch.zeros(size) for key, size in ours.items()})
    tensors = {key: torch.zeros(size) for key, size in theirs.items()}
    report = compare_keys(module, tensors, head_names=["h"])
    broken = ours.get("h") != theirs.get("h")
    body = (ours.keys() | theirs.keys()) - ({"h"} if broken else set())
    both = ours.keys() & theirs.keys() & body
    assert set(report.head_keys) == ({"h"} if broken else set())
    assert set(report.matched) == {key for key in both if ours[key] == theirs[key]}
    assert set(report.missing) == (ours.keys() - theirs.keys()) & body
    assert set(report.unexpected) == (theirs.keys() - ours.keys()) & body
    assert set(report.wrong_shape) == {
        (key, (theirs[key],), (ours[key],)) for key in both if ours[key] != theirs[key]
    }


def test_table__shows_eight_of_each_kind() -> None:
    report = KeyReport(
        matched=("m",) * 4,
        missing=tuple(f"gone{i}" for i in range(8)),
        unexpected=tuple(f"new{i}" for i in range(9)),
        wrong_shape=(("conv.weight", (4, 3), (4, 1)),),
        head_keys=(),
    )
    assert report.table().splitlines() == [
        "matched: 4",
        "missing (in the model, not in the file): 8",
        *(f"  gone{i}" for i in range(8)),
        "unexpected (in the file, not in the model): 9",
        *(f"  new{i}" for i in range(8)),
        "  and 1 more",
        "wrong shape (file / model): 1",
        "  conv.weight  (4, 3) / (4, 1)",
    ]


def test_head_classes__linear_convolution_and_none() -> None:
    tensors = {"fc.weight": torch.ones(19, 8), "c.1.weight": torch.ones(5, 8, 1, 1)}
    assert head_classes(tensors, "fc") == 19
    assert head_classes(tensors, "c.1") == 5
    assert head_classes(tensors, "c") is None
    assert head_classes({"s.weight": torch.tensor(1.0)}, "s") is None


@pytest.mark.parametrize(
    ("file", "model", "head", "classes"),
    [
        ("torchvision_squeezenet1_1", "squeezenet1_1", "classifier.1", 1000),
        ("torchvision_mobilenet_v2_labdog19", "mobilenet_v2", "classifier.1", 19),
    ],
)
def test_load_state__real_files(
    shared_weights: Path, file: str, model: str, head: str, classes: int
) -> None:
    from torchvision.models import get_model

    path = shared_weights / f"{file}.safetensors"
    found = read_state_dict(path)
    assert head_classes(found.tensors, head) == classes
    network = get_model(model, weights=None, num_classes=10)
    report = load_state(network, found.tensors, head_names=[head], origin=path.name)
    assert report.head_keys == (f"{head}.weight", f"{head}.bias")
    expected = {k: v for k, v in load_file(path).items() if not k.startswith(head)}
    assert same({key: network.state_dict()[key] for key in expected}, expected)


def test_load_state__real_file_of_another_model(shared_weights: Path) -> None:
    from torchvision.models import get_model

    found = read_state_dict(shared_weights / "torchvision_squeezenet1_1.safetensors")
    network = get_model("squeezenet1_0", weights=None)
    with pytest.raises(
        WeightsError, match=r"squeeze.st cannot be loaded: the file fits another arch"
    ):
        load_state(network, found.tensors, head_names=["classifier.1"], origin="squeeze.st")
