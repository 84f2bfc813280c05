"""The commands, and the one place where errors become words and exit codes."""

import errno
import os
import sys
from typing import Annotated, Any

import typer

from tlcli import __version__
from tlcli.cli import output
from tlcli.cli.cache import cache_app
from tlcli.cli.detect_finetune import detect_finetune
from tlcli.cli.evaluate import evaluate
from tlcli.cli.extract_features import extract_features
from tlcli.cli.finetune import finetune
from tlcli.cli.models import models_app
from tlcli.cli.probe import probe
from tlcli.errors import MachineError, TlcliError

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_OUT_OF_MEMORY = ("OutOfMemoryError", "DefaultCPUAllocator: can't allocate")
_PYDANTICS_WORDS = "Value error, "
"""What the library that Typer reads values with puts before its reason."""
_INTERRUPTED = 130
_UNEXPECTED = 1


class ErrorReportingGroup(typer.core.TyperGroup):
    """Turns errors into one line on stderr and an exit code; TLCLI_DEBUG=1 lets them through."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was chosen."""
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort):
            raise
        except typer.TyperException as error:
            error.message = error.message.removeprefix(_PYDANTICS_WORDS)
            raise
        except BrokenPipeError:
            _close_stdout()
            raise typer.Exit(0) from None
        except KeyboardInterrupt:
            output.error("Interrupted.")
            raise typer.Exit(_INTERRUPTED) from None
        except Exception as error:
            if os.environ.get("TLCLI_DEBUG") == "1":
                raise
            known = _as_known(error)
            if known is None:
                output.error(
                    f"{type(error).__name__}: {error} (unexpected; TLCLI_DEBUG=1 shows where)"
                )
                raise typer.Exit(_UNEXPECTED) from error
            output.error(str(known))
            raise typer.Exit(known.exit_code) from error


def _as_known(error: Exception) -> TlcliError | None:
    """Return the error as one of ours, None if it is a surprise."""
    if isinstance(error, TlcliError):
        return error
    if isinstance(error, OSError) and error.errno in _DISK_FULL:
        return MachineError(f"The disk is full ({error.filename}): free some space.")
    if isinstance(error, MemoryError) or any(sign in repr(error) for sign in _OUT_OF_MEMORY):
        return MachineError("Out of memory: lower --batch-size (and raise --grad-accum-steps).")
    return None


def flush_stdout() -> None:
    """Write what is left in the buffer; a reader that has gone is no error.

    Raises:
        SystemExit: If the disk refuses.
    """
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _close_stdout()
    except OSError as error:
        _close_stdout()
        output.error(f"Cannot write the output: {error.strerror or error}.")
        raise SystemExit(MachineError.exit_code) from None


def _close_stdout() -> None:
    """Let the interpreter exit quietly when the reader of our output has gone (`| head`)."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_version(value: bool) -> None:
    if value:
        output.line(f"tlcli {__version__}")
        raise typer.Exit


app = typer.Typer(
    cls=ErrorReportingGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(extract_features)
app.command()(probe)
app.command()(finetune)
app.command()(detect_finetune)
app.command()(evaluate)
app.add_typer(models_app, name="models")
app.add_typer(cache_app, name="cache")


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    """Adapt pretrained vision models (torchvision and timm) to your own images."""
