"""The home directory is for its owner alone: charges, tokens, contacts and passwords lie in it.

Belongs here: who may look into the home directory and what is ours below it. Does not: what lies there (`settings` names it), or the
database's own folder, which PostgreSQL keeps to itself. Programs make files private as they start (`settings.PRIVATE_UMASK`).
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import FatalError

OURS = (
    "acquirer", "airflow", "incidents", "keys", "lake", "logins", "outbox", "outgoing", "postgres.ready", "regression", "reports", "suites",
)  # fmt: skip
"""What is ours in a home directory; a default home lies in a checkout and has other things in it."""

OTHERS = stat.S_IRWXG | stat.S_IRWXO

ONLY_THROUGH = stat.S_IXGRP | stat.S_IXOTH
"""Started by root, the embedded PostgreSQL runs as a user of its own, who has to get through the home directory to its own folder."""


def keep_private(home: Path) -> list[Path]:
    """Make `home` if need be, and close it and what is ours in it to everybody else; returns what was open.

    Raises:
        FatalError: it belongs to somebody else.
    """
    is_root = os.geteuid() == 0
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    if home.stat().st_uid != os.geteuid() and not is_root:
        raise FatalError(
            f"{home} belongs to another user of this machine, who could read and change what is kept there; set MAKEGOOD_HOME"
            " to a folder of your own, or have this one given to you (chown)"
        )
    opened = [path for path in (home / name for name in OURS) if _is_open(path)]
    for path in (each for top in opened for each in (top, *_below(top))):
        path.chmod(stat.S_IMODE(path.stat().st_mode) & ~OTHERS)
    was_open = stat.S_IMODE(home.stat().st_mode) & OTHERS
    if was_open & ~(ONLY_THROUGH if is_root else 0):
        home.chmod(stat.S_IMODE(home.stat().st_mode) & ~OTHERS | (ONLY_THROUGH if is_root else 0))
        opened += [] if is_root else [home]  # starting the database opens it again each time
    return opened


def _is_open(path: Path) -> bool:
    """Whether others may do anything with a file or folder that is ours; never through a link."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    return not stat.S_ISLNK(found.st_mode) and found.st_uid == os.geteuid() and bool(found.st_mode & OTHERS)


def _below(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        yield from (path for name in (*folders, *files) if _is_open(path := Path(parent, name)))
