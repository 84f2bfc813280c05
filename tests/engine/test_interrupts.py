import contextlib
import os
import signal

import pytest

from tlcli.engine.interrupts import StopRequested, StopSignals


def test_check__is_silent_without_a_signal() -> None:
    with StopSignals() as signals:
        signals.check()

    assert signals.received is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda s: s.name)
def test_check__raises_after_a_signal_and_not_before(number: signal.Signals) -> None:
    with StopSignals() as signals:
        os.kill(os.getpid(), number)  # would end the process without the handler
        assert signals.received == number
        with pytest.raises(StopRequested):
            signals.check()


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT], ids=lambda s: s.name)
def test_stop_signals__the_second_one_acts_at_once(second: signal.Signals) -> None:
    with StopSignals() as signals:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), second)

    assert signals.received == signal.SIGINT


def test_stop_signals__former_handlers_come_back() -> None:
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]

    with contextlib.suppress(StopRequested), StopSignals():
        assert [signal.getsignal(number) for number in numbers] != before
        raise StopRequested

    assert [signal.getsignal(number) for number in numbers] == before


def test_asking_also__is_asked_within_its_context_only() -> None:
    def refuse() -> None:
        raise StopRequested

    with StopSignals() as signals:
        with pytest.raises(StopRequested), signals.asking_also(refuse):
            signals.check()
        signals.check()
