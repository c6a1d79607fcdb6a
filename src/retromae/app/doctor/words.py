"""Numbers for people."""

from __future__ import annotations


def size(count: float) -> str:
    """Bytes: "870 MB", "4.2 GB"."""
    for unit in ("bytes", "KB", "MB", "GB"):
        if count < 999.5 or unit == "GB":
            break
        count /= 1000
    digits = 1 if unit == "GB" and count < 99.5 else 0
    return f"{count:,.{digits}f} {unit}"


def duration(seconds: float) -> str:
    """ "0.8 s", "42 s", "6 min", "3.5 h", "2.1 days"."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    if seconds < 99.5 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} days"


def counted(number: int, what: str) -> str:
    """ "1 document", "1,200 documents"."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"
