"""`tlcli probe`."""

from typing import Annotated

import typer

from tlcli.cli import feature_options as f
from tlcli.cli import options as o
from tlcli.cli import output as out
from tlcli.cli.extract_features import show_probe
from tlcli.cli.option_files import chosen_options
from tlcli.cli.progress import TerminalTalk
from tlcli.config import ProbeConfig, ProbeHeadConfig

StoreArg = Annotated[
    str,
    typer.Argument(
        metavar="STORE", help="Folder that extract-features made, or a name from cache list."
    ),
]


def probe(
    ctx: typer.Context,
    store: StoreArg,
    head: f.ProbeKindOpt = ProbeHeadConfig.head,
    penalties: f.PenaltiesOpt = ProbeHeadConfig.penalties,
    shots: f.ShotsOpt = ProbeHeadConfig.shots,
    repeats: f.RepeatsOpt = ProbeHeadConfig.repeats,
    monitor: f.ProbeMonitorOpt = ProbeHeadConfig.monitor,
    seed: o.SeedOpt = ProbeConfig.seed,
    output: f.ProbeOutputOpt = ProbeConfig.output,
    overwrite: o.OverwriteOpt = ProbeConfig.overwrite,
    config: o.ConfigOpt = None,
    json: o.JsonOpt = False,
    quiet: o.QuietOpt = False,
    verbose: o.VerboseOpt = False,
) -> None:
    """Solve heads again on finished features, without images or backbone.

    Example: tlcli probe features/photos --head knn
    """
    chosen = ProbeConfig.from_options(chosen_options(ctx))
    talk = TerminalTalk(quiet=quiet)
    if verbose:
        out.let_libraries_speak()
    from tlcli.recipes import probe as recipe  # torch is loaded only now

    summary = recipe.run(chosen, talk=talk)
    if json:
        out.document(summary)
        return
    show_probe(summary)
