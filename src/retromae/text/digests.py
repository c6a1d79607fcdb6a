"""What tells whether the sources changed between an interrupted preparation and the next."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from retromae.text.hub import hub_hash
from retromae.text.sources import SourceFile

WHOLE_HASH_LIMIT = 1 << 30  # about a second; beyond, reading everything twice would be felt
_END = 1 << 20


def file_digest(file: SourceFile) -> dict[str, Any]:
    """What tells whether a source changed.

    Up to 1 GiB the sha256 of the content, so that a copy with another date is the same file; beyond, of size,
    modification time and the first and last MiB; for a hub data set, the hash that `datasets` gives to its revision
    and files.
    """
    if file.kind == "hub":
        return {"path": file.name, "size": 0, "hash": hub_hash(file.name), "hashed": "revision"}
    if file.kind == "saved":
        state = hashlib.sha256((Path(file.name) / "state.json").read_bytes()).hexdigest()
        return {"path": file.name, "size": file.size, "hash": state, "hashed": "state.json"}
    digest, hashed = hashlib.sha256(), "content"
    try:
        with open(file.name, "rb") as stream:
            if file.size <= WHOLE_HASH_LIMIT:
                digest = hashlib.file_digest(stream, "sha256")
            else:
                hashed = "size, time, first and last MiB"
                digest.update(f"{file.size} {os.fstat(stream.fileno()).st_mtime_ns} ".encode())
                digest.update(stream.read(_END))
                stream.seek(-_END, os.SEEK_END)
                digest.update(stream.read(_END))
    except OSError:  # reported as a problem when its turn comes
        hashed = "cannot be read"
    return {"path": file.name, "size": file.size, "hash": digest.hexdigest(), "hashed": hashed}
