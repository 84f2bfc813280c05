"""`python -m tlcli`, which torchrun needs, and the `tlcli` command."""

from tlcli.cli.app import app, flush_stdout


def main() -> None:
    """Run the command line."""
    try:
        app(prog_name="tlcli")
    finally:
        flush_stdout()


if __name__ == "__main__":
    main()
