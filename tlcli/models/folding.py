"""BatchNorms of a frozen network folded into the convolutions before them."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

TOLERANCE = 1e-4
"""Largest change of the outputs, relative to the largest of them, under which folding is kept."""
_SEED = 0
"""Of the random images, and of the random input that each pair is tried on."""


@dataclass(frozen=True)
class FoldedNetwork:
    """A copy of a network with fewer layers and the same outputs."""

    network: nn.Module
    folded: int
    """BatchNorms that became part of a convolution; 0 if that would change the outputs."""


@torch.inference_mode(mode=False)  # watched tensors need versions, and a copy may be trained on
def fold_batch_norms(network: nn.Module, *, example: Tensor) -> FoldedNetwork:
    """Copy a network and fold each BatchNorm into the convolution that it directly follows.

    In eval mode y = (w * x + b - mean) / sqrt(var + eps) * gamma + beta is a convolution with other
    weights. Pairs are found by watching a pass: the norm's input is the very tensor that the
    convolution put out, both are called once, and no other module receives that tensor. A pair is
    taken if it gives the same for a random input (this leaves out convolutions that standardise
    their weights). In the end the copy must give the same as the network for `example` and for
    random images, within `TOLERANCE` (1e-4) of the largest value; else nothing is folded.

    Only for frozen float32 networks: statistics are constants from here on. Fold on the CPU, as
    the TF32 of a GPU is coarser than the tolerance.

    Args:
        network: Left as it is; it may be in train mode.
        example: Normalised images (B, C, H, W); two are enough.

    Returns:
        A copy in eval mode, and how many norms were folded.
    """
    original = copy.deepcopy(network).eval()
    folded = copy.deepcopy(original)
    generator = torch.Generator().manual_seed(_SEED)
    noise = torch.randn(example.shape, generator=generator).to(example)
    with torch.no_grad():
        pairs = _find_pairs(folded, example[:1])
        count = sum(_fold(folded, pair, generator=generator) for pair in pairs)
        before = [*_results(original, example), *_results(original, noise)]
        after = [*_results(folded, example), *_results(folded, noise)]
    is_same = all(_change(a, b) <= TOLERANCE for a, b in zip(before, after, strict=True))
    return FoldedNetwork(folded, count) if is_same else FoldedNetwork(original, 0)


@dataclass(frozen=True)
class _Pair:
    convolution: str
    norm: str
    input_shape: tuple[int, ...]
    """Of the convolution."""


@dataclass(eq=False)
class _Output:
    """A tensor that a convolution put out in the watched pass."""

    convolution: str
    input_shape: tuple[int, ...]
    tensor: Tensor
    """Kept, so that no other tensor gets its identity."""
    version: int
    """Changes with every operation in place."""
    receivers: list[tuple[str, int]] = field(default_factory=list)
    """Modules that got it, and its version then."""


def _find_pairs(network: nn.Module, images: Tensor) -> list[_Pair]:
    """Return convolutions whose output goes to one norm and to no other module."""
    modules = {name: module for name, module in network.named_modules() if name}
    outputs: dict[int, _Output] = {}
    calls: dict[str, int] = {}

    def before(name: str, given: Any) -> None:
        """Count the call and note which outputs the module got."""
        calls[name] = calls.get(name, 0) + 1
        for tensor in _tensors_in(given):
            if id(tensor) in outputs:
                outputs[id(tensor)].receivers.append((name, tensor._version))

    def after(name: str, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        shape = tuple(inputs[0].shape)
        outputs[id(output)] = _Output(name, shape, output, output._version)

    handles = []
    for name, module in modules.items():
        handles.append(
            module.register_forward_pre_hook(
                lambda _m, args, kwargs, name=name: before(name, (args, kwargs)), with_kwargs=True
            )
        )
        if isinstance(module, nn.Conv2d):
            handles.append(
                module.register_forward_hook(
                    lambda _m, args, output, name=name: after(name, args, output)
                )
            )
    try:
        network(images)
    finally:
        for handle in handles:
            handle.remove()
    found = ((output, _norm_behind(output, modules)) for output in outputs.values())
    return [
        _Pair(output.convolution, norm, output.input_shape)
        for output, norm in found
        if norm and calls[output.convolution] == calls[norm] == 1
    ]


def _norm_behind(output: _Output, modules: dict[str, nn.Module]) -> str | None:
    """Return the norm that alone receives the unchanged tensor; modules around it do not count."""
    names = [name for name, _ in output.receivers]
    norms = [name for name in names if _is_batch_norm(modules[name])]
    is_alone = len(norms) == 1 and all(f"{norms[0]}.".startswith(f"{name}.") for name in names)
    is_unchanged = all(version == output.version for _, version in output.receivers)
    return norms[0] if is_alone and is_unchanged else None


def _is_batch_norm(module: nn.Module) -> bool:
    """Say whether a module has statistics; BatchNorms of all libraries do, frozen ones too."""
    buffers = dict(module.named_buffers(recurse=False))
    return "running_mean" in buffers and "running_var" in buffers and hasattr(module, "eps")


def _fold(network: nn.Module, pair: _Pair, *, generator: torch.Generator) -> bool:
    """Fold a norm into its convolution, in place, unless a trial gives something else."""
    convolution = network.get_submodule(pair.convolution)
    norm = network.get_submodule(pair.norm)
    assert isinstance(convolution, nn.Conv2d)
    weight, bias = _folded_tensors(convolution, norm)
    trial = copy.deepcopy(convolution)
    trial.weight = nn.Parameter(weight, requires_grad=False)
    trial.bias = nn.Parameter(bias, requires_grad=False)
    rest = _behind_statistics(norm)
    images = torch.randn(pair.input_shape, generator=generator).to(weight)
    if not _change(norm(convolution(images)), rest(trial(images))) <= TOLERANCE:
        return False
    convolution.weight, convolution.bias = trial.weight, trial.bias
    network.set_submodule(pair.norm, rest)
    return True


def _folded_tensors(convolution: nn.Conv2d, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Return weight and bias of the convolution that also does the norm, computed in float64."""
    mean, variance = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
    gamma, beta = getattr(norm, "weight", None), getattr(norm, "bias", None)
    eps = float(getattr(norm, "eps", 0.0))
    scale = (variance.double() + eps).rsqrt()
    scale = scale if gamma is None else scale * gamma.double()
    bias = 0 if convolution.bias is None else convolution.bias.double()
    shifted = (bias - mean.double()) * scale + (0 if beta is None else beta.double())
    weight = convolution.weight.double() * scale[:, None, None, None]
    return weight.to(convolution.weight), shifted.to(convolution.weight)


def _behind_statistics(norm: nn.Module) -> nn.Module:
    """Return what timm's norms do after the normalisation: drop, then act."""
    parts = [getattr(norm, name, None) for name in ("drop", "act")]
    kept = [p for p in parts if isinstance(p, nn.Module) and not isinstance(p, nn.Identity)]
    if len(kept) == 1:
        return kept[0]
    return (nn.Sequential(*kept) if kept else nn.Identity()).eval()


def _results(network: nn.Module, images: Tensor) -> list[Tensor]:
    """Return outputs and what the last layer with a matrix received: a head of zeros hides all."""
    received: dict[str, Tensor] = {}

    def remember(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        received["last"] = inputs[0]

    layers = [m for m in network.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    handles = [layer.register_forward_pre_hook(remember) for layer in layers]
    try:
        output = network(images)
    finally:
        for handle in handles:
            handle.remove()
    return [*_tensors_in(output), *received.values()]


def _change(before: Tensor, after: Tensor) -> float:
    """Return the largest difference, relative to the largest value; NaN where there is one."""
    largest = before.abs().max().clamp_min(torch.finfo(before.dtype).tiny)
    return float((before - after).abs().max() / largest)


def _tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested tuples, lists and mappings."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors_in(list(value.values()))
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _tensors_in(item)
