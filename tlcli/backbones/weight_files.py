"""Weights in files: reading them without running code, and putting them into a module.

Nothing is half-loaded: a file is compared with the module key by key, and copied only afterwards.
"""

import hashlib
import pickle
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from tlcli.backbones.finite_weights import check_finite
from tlcli.errors import WeightsError
from tlcli.results.counted import counted

PICKLE_SUFFIXES = (".pth", ".pt", ".bin", ".tar")
SUFFIXES = (".safetensors", *PICKLE_SUFFIXES)
WRAPPERS = (
    "state_dict_ema",
    "model_ema",
    "ema",
    "shadow",
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "teacher",
    "student",
    "network",
    "net",
    "backbone",
    "encoder",
    "module",
)
"""What training scripts call the state dict in a file; moving averages first, as timm does."""
PREFIXES = ("module.", "_orig_mod.")  # of DistributedDataParallel and torch.compile
MIN_BODY_MATCH = 0.9
SHOWN_PER_KIND = 8

_LFS_POINTER = b"version https://git-lfs.github.com/spec/v1"
_COUNTER = "num_batches_tracked"
# What a damaged file can raise in torch.load and in safetensors.
_READ_FAILURES = (
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    OverflowError,
    RuntimeError,
    SafetensorError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
    struct.error,
)


@dataclass(frozen=True, kw_only=True)
class WeightFile:
    """The tensors of one file and where they come from."""

    path: Path
    tensors: dict[str, Tensor]
    """By key, on the CPU, without what wrapped them in the file."""
    sha256: str
    """Of the file's bytes, 64 hexadecimal digits: the version of the weights."""
    remarks: tuple[str, ...]
    """What was unwrapped, left out or stored in an unusual way, to be told to the user."""


@dataclass(frozen=True, kw_only=True)
class KeyReport:
    """How the keys of a file fit the keys of a module."""

    matched: tuple[str, ...]
    """Copied from the file."""
    missing: tuple[str, ...]
    """In the module's body but not in the file."""
    unexpected: tuple[str, ...]
    """In the file but not in the module's body."""
    wrong_shape: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
    """(key, shape in the file, shape in the module), body only."""
    head_keys: tuple[str, ...]
    """Keys of a head that does not fit as a whole and was left as it is in the module."""

    def table(self) -> str:
        """Return plain lines: the counts, and the first keys of each kind that does not fit."""
        shapes = [f"{key}  {old} / {new}" for key, old, new in self.wrong_shape]
        return "\n".join(
            [
                f"matched: {len(self.matched)}",
                *_listing("missing (in the model, not in the file)", self.missing),
                *_listing("unexpected (in the file, not in the model)", self.unexpected),
                *_listing("wrong shape (file / model)", shapes),
                *_listing("head, left as it was", self.head_keys),
            ]
        )

    def remarks(self) -> tuple[str, ...]:
        """Return one line for each kind of key that was not copied although loading went on."""
        counters = len([key for key in (*self.missing, *self.unexpected) if _is_counter(key)])
        are = counted(counters, "batch counter of BatchNorm is", "batch counters of BatchNorm are")
        told = [f"{are} on one side only"] if counters else []
        if self.head_keys:
            told.append(f"head left as it was in the model: {', '.join(self.head_keys)}")
        return tuple(told)


def read_state_dict(path: Path, *, sha_prefix: str | None = None) -> WeightFile:
    """Read the tensors of a weights file; never runs code that is in it.

    Args:
        path: A .safetensors file, or a .pth, .pt, .bin or .tar file of `torch.save`.
        sha_prefix: First hexadecimal digits that the SHA-256 of the file must have.

    Returns:
        The tensors on the CPU, without wrapping dict and common prefix.

    Raises:
        WeightsError: If the file is missing, of an unknown kind, damaged, not the expected one,
            holds no tensors, or can be unpickled only by running code.
    """
    _check_is_weights_file(path)
    try:
        sha256 = sha256_of(path)
        if sha_prefix is not None and not sha256.startswith(sha_prefix):
            raise WeightsError(
                f"{path} is not the file it should be: its SHA-256 starts with "
                f"{sha256[: len(sha_prefix)]}, expected {sha_prefix}. Delete it and get it again."
            )
        content = _load(path)
    except _READ_FAILURES as error:
        raise WeightsError(_why_unreadable(path, error)) from error
    remarks: list[str] = []
    tensors = _strip_prefix(_tensors(_unwrap(content, remarks), remarks), remarks)
    if not tensors:
        raise WeightsError(
            f"{path} holds no tensors{_keys_seen(content)}. Give a file with a model's state dict."
        )
    remarks += _precision_remarks(tensors)
    return WeightFile(path=path, tensors=tensors, sha256=sha256, remarks=tuple(remarks))


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def load_state(
    module: nn.Module, tensors: Mapping[str, Tensor], *, head_names: Sequence[str], origin: str
) -> KeyReport:
    """Copy the tensors of a file into a module, all of its body or nothing.

    The body has to fit exactly; only the batch counters of BatchNorm, which files older than
    PyTorch 0.4.1 lack and frozen BatchNorm layers do not have, may be on one side alone. A head
    that does not fit as a whole (another number of classes, for instance) is left as it is.

    Args:
        module: Changed in place.
        tensors: By the module's own key names.
        head_names: Submodules that count as head, such as `classifier` or `head.fc`.
        origin: What the tensors are called in messages, such as the file's path.

    Returns:
        Which keys were copied and which were not.

    Raises:
        WeightsError: If the body does not fit, or holds NaN or infinity; the module is then
            unchanged.
    """
    report = compare_keys(module, tensors, head_names=head_names)
    _check_body(report, head_names=head_names, origin=origin)
    matched = {key: tensors[key] for key in report.matched}
    _check_kinds(module, matched, origin=origin)
    check_finite(matched, origin=origin)
    state = module.state_dict()  # keeps the version of each module, which MNASNet asks for
    state.update(matched)
    module.load_state_dict(state)
    return report


def compare_keys(
    module: nn.Module, tensors: Mapping[str, Tensor], *, head_names: Sequence[str]
) -> KeyReport:
    """Compare keys and shapes without changing anything; arguments as in `load_state`."""
    ours = {k: tuple(v.shape) for k, v in module.state_dict().items() if isinstance(v, Tensor)}
    theirs = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    keys = [*ours, *(key for key in theirs if key not in ours)]
    misfit = {key for key in keys if ours.get(key) != theirs.get(key)}
    broken_heads = {h for h in head_names if any(_is_under(key, h) for key in misfit)}
    head_keys = tuple(key for key in keys if any(_is_under(key, h) for h in broken_heads))
    body = [key for key in keys if key not in set(head_keys)]
    return KeyReport(
        matched=tuple(key for key in body if key not in misfit),
        missing=tuple(key for key in body if key not in theirs),
        unexpected=tuple(key for key in body if key not in ours),
        wrong_shape=tuple(
            (key, theirs[key], ours[key])
            for key in body
            if key in misfit and key in ours and key in theirs
        ),
        head_keys=head_keys,
    )


def head_classes(tensors: Mapping[str, Tensor], head_name: str) -> int | None:
    """Return how many classes the head in a file tells apart, None if it has no such head.

    Args:
        tensors: A file's tensors.
        head_name: The linear (or 1x1 convolution) layer that makes the logits; its weight has
            the shape (num_classes, ...).
    """
    weight = tensors.get(f"{head_name}.weight")
    return None if weight is None or weight.ndim == 0 else weight.shape[0]


def _check_is_weights_file(path: Path) -> None:
    if not path.exists():
        raise WeightsError(f"There is no weights file {path}. Check the path.")
    if not path.is_file():
        raise WeightsError(f"{path} is not a file. Give the weights file itself.")
    if path.suffix.lower() not in SUFFIXES:
        raise WeightsError(
            f"{path} does not end like a weights file ('{path.suffix}'). "
            f"These can be read: {', '.join(SUFFIXES)}."
        )


def _load(path: Path) -> object:
    with path.open("rb") as stream:
        if stream.read(len(_LFS_POINTER)) == _LFS_POINTER:
            raise WeightsError(
                f"{path} is only a git-lfs pointer, not the weights. "
                "Run 'git lfs pull' in its repository."
            )
    if path.suffix.lower() == ".safetensors":
        return safetensors.torch.load_file(path, device="cpu")
    return torch.load(path, map_location="cpu", weights_only=True)


def _why_unreadable(path: Path, error: Exception) -> str:
    """Say in one line why a file cannot be read, and what to do about it."""
    text = str(error)
    if isinstance(error, PermissionError):
        return f"{path} may not be read by you. Change its permissions."
    if "TorchScript" in text:
        return f"{path} is a TorchScript archive, a program. Give the model's state dict instead."
    if found := re.search(r"Unsupported (?:global: GLOBAL|class) ([\w.]+)", text):
        return (
            f"{path} holds more than tensors ({found[1]}) and could run code when it is opened, "
            "so it is refused. If you trust it, save its state dict alone as .safetensors."
        )
    return (
        f"{path} ({path.stat().st_size} bytes) is damaged, cut off or not a weights file "
        f"({_detail(error)}). Get it again."
    )


def _detail(error: Exception) -> str:
    """Return the one clause of a reader's message that says something about the file."""
    found = re.search(r"WeightsUnpickler error: (.+)", str(error))
    text = found[1] if found else str(error)
    if text.startswith("Weights only load failed"):  # the rest is advice to switch the guard off
        return "no pickle of tensors"
    clause = re.split(r"\. |\n", text, maxsplit=1)[0].strip().rstrip(".")
    return f"{type(error).__name__}: {clause[:120]}" if clause else type(error).__name__


def _unwrap(content: object, remarks: list[str]) -> Mapping[object, object]:
    """Take the state dict out of what a training script saved around it."""
    if not isinstance(content, Mapping):
        return {}
    for name in WRAPPERS:
        inner = content.get(name)
        if isinstance(inner, Mapping) and _has_tensors(inner):
            others = ", ".join(str(key) for key in content if key != name)
            remarks.append(f"took '{name}' of the file" + (f", not: {others}" if others else ""))
            return _unwrap(inner, remarks)
    return content


def _has_tensors(content: Mapping[object, object]) -> bool:
    """Say whether a mapping has named tensors itself or in what `_unwrap` takes out of it.

    Single numbers do not count: averages keep their decay and their steps beside the weights.
    """
    named = (value for key, value in content.items() if _is_text(key))
    if any(isinstance(value, Tensor) and value.ndim for value in named):
        return True
    inside = (content.get(name) for name in WRAPPERS)
    return any(isinstance(inner, Mapping) and _has_tensors(inner) for inner in inside)


def _keys_seen(content: object) -> str:
    """Return what a file holds instead of tensors, as the end of a clause."""
    if not isinstance(content, Mapping):
        return f" but one value ({type(content).__name__})"
    seen = [f"{key} ({type(value).__name__})" for key, value in content.items()]
    rest = f" and {len(seen) - SHOWN_PER_KIND} more" if len(seen) > SHOWN_PER_KIND else ""
    return f" but {', '.join(seen[:SHOWN_PER_KIND])}{rest}" if seen else ""


def _tensors(content: Mapping[object, object], remarks: list[str]) -> dict[str, Tensor]:
    tensors = {k: v.detach() for k, v in content.items() if isinstance(v, Tensor) and _is_text(k)}
    others = [f"{key} ({type(v).__name__})" for key, v in content.items() if key not in tensors]
    if others:
        rest = f" and {len(others) - SHOWN_PER_KIND} more" if len(others) > SHOWN_PER_KIND else ""
        remarks.append(f"left out, not named tensors: {', '.join(others[:SHOWN_PER_KIND])}{rest}")
    return {str(key): tensor for key, tensor in tensors.items()}


def _is_text(key: object) -> bool:
    return isinstance(key, str)


def _strip_prefix(tensors: dict[str, Tensor], remarks: list[str]) -> dict[str, Tensor]:
    for prefix in PREFIXES:
        if tensors and all(key.startswith(prefix) for key in tensors):
            remarks.append(f"removed the prefix '{prefix}' from every key")
            stripped = {key.removeprefix(prefix): tensor for key, tensor in tensors.items()}
            return _strip_prefix(stripped, remarks)
    return tensors


def _precision_remarks(tensors: Mapping[str, Tensor]) -> list[str]:
    dtypes = {
        str(t.dtype).removeprefix("torch.") for t in tensors.values() if t.is_floating_point()
    }
    unusual = sorted(dtypes - {"float32"})
    return [f"stored as {', '.join(unusual)}"] if unusual else []


def _listing(title: str, lines: Sequence[str]) -> list[str]:
    """Return a title with the count and the first lines, nothing if there are none."""
    if not lines:
        return []
    rest = len(lines) - SHOWN_PER_KIND
    shown = [f"  {line}" for line in lines[:SHOWN_PER_KIND]]
    return [f"{title}: {len(lines)}", *shown, *([f"  and {rest} more"] if rest > 0 else [])]


def _is_under(key: str, name: str) -> bool:
    return key == name or key.startswith(f"{name}.")


def _is_counter(key: str) -> bool:
    return key.rpartition(".")[2] == _COUNTER


def _check_body(report: KeyReport, *, head_names: Sequence[str], origin: str) -> None:
    missing = [key for key in report.missing if not _is_counter(key)]
    unexpected = [key for key in report.unexpected if not _is_counter(key)]
    if not (missing or unexpected or report.wrong_shape):
        return
    fitting = sum(not any(_is_under(k, h) for h in head_names) for k in report.matched)
    share = fitting / max(1, fitting + len(missing) + len(report.wrong_shape))
    if share < MIN_BODY_MATCH:
        fault = f"the file fits another architecture ({share:.0%} of the model's tensors match)"
        remedy = "Name the model that the weights were made for, or another file."
    else:
        fault = "some of its keys do not fit the model"
        remedy = "Give the weights of exactly this model and input size."
    raise WeightsError(f"{origin} cannot be loaded: {fault}. {remedy}\n{report.table()}")


def _check_kinds(module: nn.Module, tensors: Mapping[str, Tensor], *, origin: str) -> None:
    """Refuse whole numbers where the model has fractions (quantised weights), and vice versa."""
    ours = module.state_dict()
    for key, tensor in tensors.items():
        if tensor.is_floating_point() != ours[key].is_floating_point():
            raise WeightsError(
                f"{origin} cannot be loaded: '{key}' is {tensor.dtype}, the model's is "
                f"{ours[key].dtype}. Give weights that are not quantised."
            )
