"""Bytes on disk → lines of bounded length, in plain or gzip files, UTF-8 or UTF-16 with its mark.

A line longer than the limit is passed over without being held, so a single line of a gigabyte costs no more
memory than the limit. Encodings are not guessed: what is not UTF-8 (or UTF-16 that says so) is reported.
"""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO, cast

from retromae.text.problems import Problem

_PIECE = 1 << 20
BROKEN_FILE = (OSError, EOFError, zlib.error)


@dataclass
class Meter:
    """How many bytes of the sources have been read: for the progress bar only."""

    finished: int = 0
    raw: BinaryIO | None = None

    @property
    def bytes_read(self) -> int:
        return self.finished + (self.raw.tell() if self.raw is not None and not self.raw.closed else 0)


@contextmanager
def open_bytes(path: Path, meter: Meter | None = None) -> Iterator[IO[bytes]]:
    """The file's content, unpacked if its name ends in .gz; the meter follows the bytes on disk."""
    with open(path, "rb") as raw:
        if meter is not None:
            meter.raw = raw
        try:
            if path.suffix == ".gz":
                with gzip.GzipFile(fileobj=raw) as unpacked:
                    yield cast(IO[bytes], unpacked)
            else:
                yield raw
        finally:
            if meter is not None:
                meter.raw = None


def size_of(count: int) -> str:
    return f"{count / (1 << 20):.0f} MiB" if count >= 1 << 20 else f"{count} bytes"


def lines_of(path: Path, limit: int, meter: Meter | None = None) -> Iterator[tuple[int, str | Problem]]:
    """(line number from 1, the line without its end | what is wrong with it)."""
    number = 0
    try:
        with open_bytes(path, meter) as stream:
            start = stream.peek(2)[:2] if isinstance(stream, io.BufferedReader | gzip.GzipFile) else b""
            lines = _utf16_lines if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else _utf8_lines
            for number, line in lines(path, stream, limit):
                yield number, line
    except BROKEN_FILE as error:
        text = f"the file breaks off or is damaged after line {number} ({error})."
        yield number + 1, Problem("broken_file", str(path), number + 1, text)


def _too_long(path: Path, number: int, limit: int) -> Problem:
    return Problem(
        "line_too_long", str(path), number, f"the line is longer than the limit of {size_of(limit)}."
    )


def _utf8_lines(path: Path, stream: IO[bytes], limit: int) -> Iterator[tuple[int, str | Problem]]:
    number = 0
    while line := stream.readline(limit + 1):
        number += 1
        if len(line) > limit and not line.endswith(b"\n"):
            del line  # the rest is passed over while nothing of it is held
            while (piece := stream.readline(_PIECE)) and not piece.endswith(b"\n"):
                pass
            yield number, _too_long(path, number, limit)
            continue
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        try:
            yield number, line.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            text = f"byte {error.start} of the line is not valid UTF-8; convert the file to UTF-8."
            yield number, Problem("wrong_encoding", str(path), number, text)


def _utf16_lines(path: Path, stream: IO[bytes], limit: int) -> Iterator[tuple[int, str | Problem]]:
    number = 0
    text = io.TextIOWrapper(stream, encoding="utf-16", newline="\n")
    try:
        while line := text.readline(limit + 1):
            number += 1
            if len(line) > limit and not line.endswith("\n"):
                del line
                while (piece := text.readline(_PIECE)) and not piece.endswith("\n"):
                    pass
                yield number, _too_long(path, number, limit)
                continue
            yield number, line.rstrip("\r\n")
    except UnicodeError:
        sentence = "the rest of the file is not valid UTF-16; convert it to UTF-8."
        yield number + 1, Problem("wrong_encoding", str(path), number + 1, sentence)
    finally:
        text.detach()


def whole_text(path: Path, limit: int) -> str | Problem:
    """A text file's content, or what is wrong with it."""
    name = str(path)
    try:
        size = path.stat().st_size
        if size > limit:
            sentence = (
                f"the file is larger than the limit of {size_of(limit)} for one document; split it, "
                "or say --txt lines if each line is a document."
            )
            return Problem("file_too_large", name, 0, sentence)
        content = path.read_bytes()
    except OSError as error:
        return Problem("broken_file", name, 0, f"the file cannot be read ({error.strerror or error}).")
    if not content.strip():
        return Problem("empty", name, 0, "the file is empty.")
    utf16 = content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    if not utf16 and b"\0" in content:
        return Problem("binary", name, 0, "the file is binary, or UTF-16 without a byte order mark.")
    try:
        text = content.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        encoding = "UTF-16" if utf16 else "UTF-8"
        sentence = f"byte {error.start} of the file is not valid {encoding}; convert it to UTF-8."
        return Problem("wrong_encoding", name, 0 if utf16 else line, sentence)
    return text.replace("\r\n", "\n").replace("\r", "\n")
