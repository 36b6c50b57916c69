"""Which journal is meant: a folder that is given, or the one where a station keeps its own.

Imported by `edge-journal --help`, so it imports what is heavy when it is asked.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from edge.errors import SettingsError

SERVICE_SETTINGS = "station.toml"
SERVICE_STATE = Path("/var/lib/cytologia-edge")
"""Where systemd keeps the journal of cytologia-edge.service; an instance has a folder of its name there."""


@dataclass(frozen=True, slots=True)
class Folders:
    """Where the journal and the CSV files are, as far as the command line says."""

    state: Path | None
    settings: Path | None
    out: Path | None

    def of_journal(self) -> Path:
        """The folder of the journal.

        Raises:
            SettingsError: no folder is given, or more than one holds a journal.
        """
        from edge.journal_file import JOURNAL_NAME

        if self.state is not None:
            return self.state
        if self.settings is None:
            if self.out is None:
                raise SettingsError(
                    "no journal is named; give a station's settings file with --settings, its output folder "
                    "with --out, or the journal's folder with --state."
                )
            return self.out / ".edge"
        from edge.settings import load_settings

        chosen = load_settings(self.settings, out=self.out)
        if chosen.state is not None or os.environ.get("STATE_DIRECTORY"):
            return chosen.state_folder
        # The settings of a service need not say where its journal is: systemd tells the service.
        is_instance = self.settings.name != SERVICE_SETTINGS
        service = SERVICE_STATE / self.settings.stem if is_instance else SERVICE_STATE
        places = [chosen.state_folder, service]
        found = [place for place in places if os.path.lexists(place / JOURNAL_NAME)]
        if len(found) > 1:
            raise SettingsError(
                f"both {str(found[0])!r} and {str(found[1])!r} hold a journal; "
                "give the right one with --state."
            )
        return found[0] if found else chosen.state_folder

    def of_rows(self) -> Path:
        """The folder of the CSV files.

        Raises:
            SettingsError: it is not given.
        """
        if self.out is not None:
            return self.out
        if self.settings is None:
            raise SettingsError("the folder of the CSV files is not given; add --out or --settings.")
        from edge.settings import load_settings

        return load_settings(self.settings).out
