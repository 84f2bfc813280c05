"""`tlcli cache`."""

import datetime
from pathlib import Path
from typing import Annotated, Literal

import typer

from tlcli.cli import options as o
from tlcli.cli import output as out
from tlcli.results.counted import counted
from tlcli.results.records import SCHEMA_VERSION

cache_app = typer.Typer(
    no_args_is_help=True,
    help="What tlcli keeps to compute nothing twice: list, show, clear, export.",
)

StoreArg = Annotated[
    str, typer.Argument(metavar="STORE", help="Name from cache list, or a folder of features.")
]
NamesArg = Annotated[
    list[str] | None, typer.Argument(metavar="[NAME]...", help="Names from cache list.")
]
AllOpt = Annotated[bool, typer.Option("--all", help="Everything in the cache.")]
FormatOpt = Annotated[
    Literal["npy", "parquet"] | None,
    typer.Option(
        "--format",
        help="npy: a folder with one file per layer; parquet: one table. Without it parquet where "
        "--output ends so, else npy.",
    ),
]
ExportOutputOpt = Annotated[
    str, typer.Option("--output", "-o", help="Folder (npy) or file (parquet) to write.")
]


@cache_app.command("list")
def list_entries(json: o.JsonOpt = False) -> None:
    """List what is kept, where and how large, last used first."""
    from tlcli.data.cache_folder import cache_folder
    from tlcli.recipes import cache as recipe

    entries = recipe.list_cache()
    if json:
        out.document(
            {"schema_version": SCHEMA_VERSION, "entries": [entry.to_json() for entry in entries]}
        )
        return
    if not entries:
        out.line(f"The cache, {cache_folder()}, is empty.")
        return
    total = sum(entry.bytes for entry in entries)
    out.table(
        f"{counted(len(entries), 'entry', 'entries')}, {total / 1e6:.1f} MB in {cache_folder()}",
        columns=["name", "kind", "state", "rows ", "MB ", "last used", "data, or what a row is"],
        rows=[
            [
                entry.name,
                entry.kind,
                entry.state,
                f"{entry.rows:,}" if entry.rows else "-",
                f"{entry.bytes / 1e6:.1f}",
                datetime.datetime.fromtimestamp(entry.used).strftime("%Y-%m-%d %H:%M"),
                entry.data or entry.holds or "-",
            ]
            for entry in entries
        ],
    )


@cache_app.command("show")
def show(store: StoreArg) -> None:
    """Show what an entry was computed with, as JSON."""
    from tlcli.recipes import cache as recipe

    out.document(recipe.show_store(store))


@cache_app.command("clear")
def clear(names: NamesArg = None, everything: AllOpt = False, json: o.JsonOpt = False) -> None:
    """Delete entries. All is computed again when it is needed; heads in features are lost."""
    from tlcli.recipes import cache as recipe

    deleted = recipe.clear_cache(names or [], everything=everything)
    if json:
        out.document(
            {"schema_version": SCHEMA_VERSION, "deleted": [entry.to_json() for entry in deleted]}
        )
        return
    freed = sum(entry.bytes for entry in deleted)
    number = counted(len(deleted), "entry", "entries")
    out.line(f"Deleted {number}, {freed / 1e6:.1f} MB.")


@cache_app.command("export")
def export(store: StoreArg, output: ExportOutputOpt, kind: FormatOpt = None) -> None:
    """Write embeddings for other tools, one row per image and view."""
    from tlcli.recipes import cache_export as recipe  # torch is loaded only now

    path = Path(output).expanduser()
    rows = recipe.export_store(store, kind=kind, output=path)
    out.note(f"Wrote {counted(rows, 'row')}.")
    out.line(str(path))
