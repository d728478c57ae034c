"""Files that survive a power loss: written beside, flushed to the disk, renamed, and the folder flushed as well.

Belongs here: what every promise about a file rests on. A record that says a file is there is made after these return.
"""

import os
from pathlib import Path


def write_durably(path: Path, content: bytes) -> None:
    """Put `content` at `path`, whole or not at all; on the disk when this returns."""
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Flush a file that others have written, or the names in a folder, to the disk: without it a rename may be undone by a power loss."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
