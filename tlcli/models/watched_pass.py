"""What some modules put out during one forward pass, which ends when all of it was seen."""

import contextlib
import itertools
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from tlcli.errors import ModelError
from tlcli.models.feature_taps import Tap
from tlcli.models.pooling import pooled


class WatchedPass:
    """Hooks on a network that hand out what its taps show.

    Several threads may run one network at once, and so may copies of it. Its layers must not be
    replaced any more. Nothing is kept between passes and gradients flow through what is handed out.

    Args:
        network: Hooks are put on it.
        taps: What is wanted.
    """

    def __init__(self, network: nn.Module, taps: Sequence[Tap]) -> None:
        self.taps = tuple(taps)
        self._owner = next(_OWNERS)
        for tap in self.taps:
            _listen(network.get_submodule(tap.module), tap, owner=self._owner)

    def run(self, network: nn.Module, images: Tensor) -> list[Tensor]:
        """Run the network, or a copy of it, and return copies of what the taps show, in order.

        Raises:
            ModelError: If a layer was not called as in the pass in which the taps were found.
        """
        wanted = {tap.name: tap.call for tap in self.taps}
        capture = _Capture(owner=self._owner, wanted=wanted)
        with _capturing(capture), contextlib.suppress(_AllSeenError):
            network(images)
        if missing := [name for name in wanted if name not in capture.seen]:
            raise ModelError(
                f"The network did not call {', '.join(missing)} as it did for blank images, or the "
                "layer was replaced since."
            )
        return [capture.seen[tap.name] for tap in self.taps]


@dataclass(kw_only=True)
class _Capture:
    """What one forward pass in one thread has shown so far."""

    owner: int
    """Who listens; others may have hooks on the same network."""
    wanted: dict[str, int]
    """Which call of the module of each tap is wanted, counted from 1."""
    calls: dict[str, int] = field(default_factory=dict)
    seen: dict[str, Tensor] = field(default_factory=dict)


class _AllSeenError(Exception):
    """Ends a forward pass that has shown everything wanted."""


_OWNERS = itertools.count()
_THREAD = threading.local()


@contextlib.contextmanager
def _capturing(capture: _Capture) -> Iterator[None]:
    before = getattr(_THREAD, "capture", None)
    _THREAD.capture = capture
    try:
        yield
    finally:
        _THREAD.capture = before


def _listen(module: nn.Module, tap: Tap, *, owner: int) -> None:
    """Take a feature whenever a pass of `owner` in the same thread reaches the module."""

    def take(value: object) -> None:
        """Keep the feature if this pass wants it; end the pass after the last one."""
        capture: _Capture | None = getattr(_THREAD, "capture", None)
        if capture is None or capture.owner != owner:
            return
        capture.calls[tap.name] = capture.calls.get(tap.name, 0) + 1
        if capture.calls[tap.name] == tap.call:
            # Pooled at once: a layer behind it may work in place.
            capture.seen[tap.name] = pooled(tap.value_of(value), layout=tap.layout, pool=tap.pool)
        if len(capture.seen) == len(capture.wanted):
            raise _AllSeenError

    if tap.is_head:
        module.register_forward_pre_hook(lambda _module, inputs: take(inputs))
    else:
        module.register_forward_hook(lambda _module, _inputs, output: take(output))
