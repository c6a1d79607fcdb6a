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


def counted(number: int, what: str) -> str:
    """ "1 document", "1,200 documents"."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"
