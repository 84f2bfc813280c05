"""Networks inside of others: their tensors found by the names that follow a common prefix.

Training scripts wrap a network as `module.`, `model.`, `backbone.`, `student.backbone.` or
`encoder_q.` and save their own layers beside it. No list of such names is kept: the prefix is the
one behind which the most of the wanted keys stand.
"""

from collections import Counter
from collections.abc import Collection, Mapping

from torch import Tensor

from tlcli.results.counted import counted

_AVERAGED = ("ema", "teacher", "momentum")
"""Words in the prefixes of moving averages, which self-supervised methods are judged by."""
_SHOWN = 4


def below_best_prefix(
    tensors: Mapping[str, Tensor], *, wanted: Collection[str]
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return the tensors below the prefix that fits best, by their names below it.

    Where several networks of the same names are in the file, a moving average is taken (DINO's
    teacher), else the first.

    Args:
        tensors: Of a file.
        wanted: Keys of the network that they are for.

    Returns:
        The tensors, all of them if no prefix fits better than none; and what is to be told.
    """
    names = frozenset(wanted)
    votes = Counter(prefix for key in tensors for prefix in _prefixes(key, wanted=names))
    most = max(votes.values(), default=0)
    best = [prefix for prefix, count in votes.items() if count == most]
    if most <= votes[""]:
        return dict(tensors), ()
    chosen = next((p for p in best if any(word in p.lower() for word in _AVERAGED)), best[0])
    below = {
        key.removeprefix(chosen): tensor
        for key, tensor in tensors.items()
        if key.startswith(chosen)
    }
    return below, _remarks(tensors, chosen=chosen, taken=len(below))


def _prefixes(key: str, *, wanted: frozenset[str]) -> list[str]:
    """Return what stands before each of the wanted names that a key ends with."""
    parts = key.split(".")
    ends = [".".join(parts[start:]) for start in range(len(parts))]
    return [key.removesuffix(end) for end in ends if end in wanted]


def _remarks(tensors: Mapping[str, Tensor], *, chosen: str, taken: int) -> tuple[str, ...]:
    remark = f"took the {counted(taken, 'tensor')} below '{chosen}'"
    others = list(dict.fromkeys(_beginning(key) for key in tensors if not key.startswith(chosen)))
    if not others:
        return (remark,)
    shown = ", ".join(others[:_SHOWN]) + (" and others" if len(others) > _SHOWN else "")
    return (f"{remark}, left out {counted(len(tensors) - taken, 'other')}: {shown}",)


def _beginning(key: str) -> str:
    """Return the first two parts of a name."""
    parts = key.split(".")
    return ".".join(parts[:2]) + (".*" if len(parts) > 2 else "")
