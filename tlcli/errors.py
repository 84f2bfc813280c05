"""What can go wrong by a user's hand or on a user's machine, each with its exit code.

Only these are shown as one line; anything else is a fault of ours and keeps its traceback.
"""


class TlcliError(Exception):
    """A failure with a message for the user: what, which value, and the remedy."""

    exit_code = 1


class ConfigError(TlcliError):
    """An option, or a combination of options, that cannot be honoured."""

    exit_code = 2


class DataError(TlcliError):
    """Images, labels or tables that are missing or do not fit together."""

    exit_code = 3


class BadImageError(DataError):
    """An image file that cannot be decoded."""


class ModelError(TlcliError):
    """A model that does not exist or cannot be built as asked."""

    exit_code = 4


class WeightsError(ModelError):
    """Weights that are not to be had or do not fit the model."""


class MachineError(TlcliError):
    """Disk, memory or device of this machine does not allow what was asked."""

    exit_code = 5


class NonFiniteLossError(TlcliError):
    """The training loss became NaN or infinite."""


class FrozenMovedError(TlcliError):
    """A tensor that was frozen is not the same after training."""


class InterruptedRunError(TlcliError):
    """The user or the system asked the run to stop; its checkpoint is saved."""

    def __init__(self, message: str, *, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number
