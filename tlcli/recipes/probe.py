"""`tlcli probe`: heads solved again on finished features, without images or backbone."""

from pathlib import Path
from typing import Any

from tlcli.config import ProbeConfig
from tlcli.recipes.feature_folder import open_features
from tlcli.recipes.probing import check_probe, probe_features
from tlcli.recipes.talk import Talk
from tlcli.results.run_dir import check_free, default_run_path


def run(config: ProbeConfig, *, talk: Talk) -> dict[str, Any]:
    """Solve heads on a folder of features and return what `probe --json` prints.

    Raises:
        TlcliError: For everything a user or the machine can get wrong; see `tlcli.errors`.
    """
    check_probe(config.probe)
    folder = open_features(config.store)
    if config.output is None:
        path = default_run_path(folder.path, f"probe-{config.probe.head}")
    else:
        path = Path(config.output).expanduser()
        check_free(path, overwrite=config.overwrite)
    return probe_features(
        folder,
        config.probe,
        seed=config.seed,
        path=path,
        overwrite=config.overwrite,
        command="probe",
        talk=talk,
    )
