"""Every kind of source, and every way in which one can be broken."""

from __future__ import annotations

import csv
import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from retromae.core.errors import UserError
from retromae.text.problems import Problems
from retromae.text.sources import (
    Document,
    Position,
    Reader,
    ReadOptions,
    is_tokenised,
    list_files,
    read_documents,
)
from retromae.text.tables import Fields

RECORDS = [
    {"_id": "a1", "title": "Tides", "text": "The sea rises twice a day."},
    {"_id": "a2", "title": "", "text": "Brücken summen im Wind. 桥在风中。"},
]


def lines(records: list[Any]) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def read(*sources: Path | str, problems: Problems | None = None, **options: Any) -> list[Document]:
    problems = problems if problems is not None else Problems("stop")
    found = list(read_documents([str(s) for s in sources], ReadOptions(**options), problems=problems))
    return found


def plain(documents: list[Document]) -> list[tuple[str, str, str, int]]:
    return [(d.id, d.title, d.text, d.line) for d in documents]


EXPECTED = [("a1", "Tides", RECORDS[0]["text"], 1), ("a2", "", RECORDS[1]["text"], 2)]


def test_folder_of_texts_in_order(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "secret.txt").write_text("hidden")
    (tmp_path / "b" / "z.txt").write_text("Last.\r\nLine.", newline="")
    (tmp_path / "a.md").write_text("# Salt\n\nKeeps fish.")
    (tmp_path / "c.html").write_text("<title>Ice</title><p>Melts.")
    (tmp_path / "d.rst").write_text("Owls\n====\n\nHunt by ear.")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\0\0")
    problems = Problems("stop")  # pictures are no reason to stop
    found = read(tmp_path, problems=problems)
    assert plain(found) == [
        ("a.md", "Salt", "Keeps fish.", 0),
        ("c.html", "Ice", "Melts.", 0),
        ("d.rst", "Owls", "Hunt by ear.", 0),
        ("b/z.txt", "", "Last.\nLine.", 0),
    ]
    assert problems.counts == {"not_read": 1}
    assert "picture.png" in problems.examples["not_read"][0]


def test_single_file_and_one_document_per_line(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("First.\n\nThird.\n")
    assert plain(read(file)) == [("notes.txt", "", "First.\n\nThird.\n", 0)]
    assert plain(read(file, txt="lines")) == [
        ("notes.txt:1", "", "First.", 1),
        ("notes.txt:3", "", "Third.", 3),
    ]


def test_jsonl_plain_and_packed_and_beir(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(lines(RECORDS), encoding="utf-8")
    with gzip.open(tmp_path / "y.jsonl.gz", "wt", encoding="utf-8") as stream:
        stream.write(lines(RECORDS))
    beir = tmp_path / "beir"
    beir.mkdir()
    (beir / "corpus.jsonl").write_text(lines(RECORDS), encoding="utf-8")
    (beir / "queries.jsonl").write_text(lines([{"_id": "q", "text": "not a document"}]))
    for source in (tmp_path / "x.jsonl", tmp_path / "y.jsonl.gz", beir):
        assert plain(read(source)) == EXPECTED


def test_other_usual_names_and_names_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    file.write_text(lines([{"id": 7, "contents": "One."}, {"docid": "d", "body": "Two.", "title": "T"}]))
    assert plain(read(file)) == [("7", "", "One.", 1), ("d", "T", "Two.", 2)]
    file.write_text(lines([{"key": "k", "head": "H", "words": "Three.", "text": "not this"}]))
    assert plain(read(file, fields=Fields("key", "head", "words"))) == [("k", "H", "Three.", 1)]


def test_tables(tmp_path: Path) -> None:
    with open(tmp_path / "x.csv", "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "extra", "_id", "title"])
        writer.writerow(['He said "no",\nthen left.', "-", "c1", "A, b"])
    assert plain(read(tmp_path / "x.csv")) == [("c1", "A, b", 'He said "no",\nthen left.', 3)]
    (tmp_path / "y.tsv").write_text('id\ttext\n1\tA "quote that stays open\n2\tSecond\n')
    assert plain(read(tmp_path / "y.tsv")) == [
        ("1", "", 'A "quote that stays open', 2),
        ("2", "", "Second", 3),
    ]
    with gzip.open(tmp_path / "z.tsv.gz", "wt") as stream:
        stream.write("10\tNo header here\n")
    assert plain(read(tmp_path / "z.tsv.gz", fields=Fields("0", "", "1"))) == [
        ("10", "", "No header here", 1)
    ]


def test_parquet(tmp_path: Path) -> None:
    pq.write_table(
        pa.Table.from_pylist([{**r, "other": 1} for r in RECORDS]), tmp_path / "x.parquet", row_group_size=1
    )
    assert plain(read(tmp_path / "x.parquet")) == EXPECTED


def test_hub_layout_and_saved_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    hub = tmp_path / "hub"
    (hub / "data").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(RECORDS), hub / "data" / "train-00000-of-00001.parquet")
    pq.write_table(pa.Table.from_pylist(RECORDS[:1]), hub / "data" / "test-00000-of-00001.parquet")
    assert plain(read(f"hub:{hub}")) == EXPECTED
    assert plain(read(f"hub:{hub}@test")) == EXPECTED[:1]
    with pytest.raises(UserError, match="hub:NAME"):
        read(f"hub:{tmp_path / 'nowhere'}")
    saved = tmp_path / "saved"
    datasets.Dataset.from_list(RECORDS).save_to_disk(saved)
    assert plain(read(saved)) == EXPECTED


def test_rows_are_recognised_and_not_read_as_text(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"token_ids": [[1, 2]]}).save_to_disk(tmp_path / "rows")
    assert is_tokenised(tmp_path / "rows")
    assert not is_tokenised(tmp_path)
    with pytest.raises(UserError, match="tokenised already"):
        read(tmp_path / "rows")


def test_utf16_and_byte_order_marks(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("größer 大", encoding="utf-16")
    (tmp_path / "b.txt").write_text("größer 大", encoding="utf-8-sig")
    (tmp_path / "c.jsonl").write_text(lines(RECORDS), encoding="utf-16")
    (tmp_path / "d.jsonl").write_text(lines(RECORDS), encoding="utf-8-sig")
    found = read(tmp_path)
    assert [d.text for d in found[:2]] == ["größer 大"] * 2
    assert plain(found[2:4]) == plain(found[4:]) == EXPECTED


GOOD = json.dumps({"_id": "ok", "text": "Good."}).encode()
BROKEN: list[tuple[str, bytes, str, int]] = [
    ("x.jsonl", GOOD + b'\n{"text": "half\n' + GOOD, "broken_json", 2),
    ("x.jsonl", GOOD + b"\n[1, 2]\n" + GOOD, "broken_json", 2),
    ("x.jsonl", GOOD + b"\n" + b"[" * 100_000 + b"\n" + GOOD, "broken_json", 2),
    ("x.jsonl", GOOD + b'\n{"text": "caf\xe9"}\n' + GOOD, "wrong_encoding", 2),
    ("x.jsonl", GOOD + b'\n{"text": "\\ud800"}\n' + GOOD, "wrong_encoding", 2),
    ("x.jsonl", GOOD + b'\n{"words": "none"}\n' + GOOD, "missing_field", 2),
    ("x.jsonl", GOOD + b'\n{"text": 5}\n' + GOOD, "wrong_type", 2),
    ("x.jsonl", GOOD + b'\n{"text": " "}\n' + GOOD, "empty", 2),
    ("x.jsonl", GOOD + b'\n{"text": "' + b"a" * 200_000 + b'"}\n' + GOOD, "line_too_long", 2),
    ("x.csv", b'text,id\nGood.,1\n"open"x,2\nGood.,3\n', "broken_row", 3),
    ("x.tsv", b"text\tid\nGood.\t1\nonly one column\nGood.\t3\n", "broken_row", 3),
    ("x.tsv", b"text\tid\nGood.\t1\nbad \xff\t2\nGood.\t3\n", "wrong_encoding", 3),
    ("x.jsonl.gz", gzip.compress((GOOD + b"\n") * 2, mtime=0)[:-6], "broken_file", 3),
    ("x.jsonl", (GOOD + b"\n" + GOOD + b"\n").decode().encode("utf-16") + b"\0", "wrong_encoding", 3),
]


@pytest.mark.parametrize(("name", "content", "kind", "line"), BROKEN, ids=[f"{b[0]}-{b[2]}" for b in BROKEN])
def test_broken_records_are_skipped_or_stop(
    tmp_path: Path, name: str, content: bytes, kind: str, line: int
) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    problems = Problems("skip")
    found = read(file, problems=problems, line_limit=150_000)
    assert [d.text for d in found] == ["Good.", "Good."]
    assert problems.counts == {kind: 1}
    assert problems.examples[kind][0].startswith(f"{file}:{line}: ")
    with pytest.raises(UserError, match=f"{name}:{line}: .*--on-error skip"):
        read(file, line_limit=150_000)


BAD_FILES: list[tuple[str, bytes, str]] = [
    ("x.txt", b"caf\xe9", "wrong_encoding"),
    ("x.txt", b"", "empty"),
    ("x.txt", b" \n", "empty"),
    ("x.md", b"---\ntitle: only\n---\n", "empty"),
    ("x.txt", b"MZ\0\1\2", "binary"),
    ("x.txt", b"a" * 2000, "file_too_large"),
    ("x.jsonl", b"", "empty"),
    ("x.csv", b"text,id\n", "empty"),
    ("x.parquet", b"PAR1 nonsense PAR1", "broken_file"),
    ("x.jsonl.gz", b"not packed at all", "broken_file"),
]


@pytest.mark.parametrize(("name", "content", "kind"), BAD_FILES, ids=[f"{b[0]}-{b[2]}" for b in BAD_FILES])
def test_bad_files_are_skipped_or_stop(tmp_path: Path, name: str, content: bytes, kind: str) -> None:
    (tmp_path / name).write_bytes(content)
    (tmp_path / "z.txt").write_text("Good.")
    problems = Problems("skip")
    assert [d.text for d in read(tmp_path, problems=problems, line_limit=1000)] == ["Good."]
    assert problems.counts == {kind: 1}
    with pytest.raises(UserError, match=name):
        read(tmp_path, line_limit=1000)


def test_parquet_that_breaks_off(tmp_path: Path) -> None:
    file = tmp_path / "x.parquet"
    pq.write_table(pa.Table.from_pylist(RECORDS * 2000), file)
    file.write_bytes(file.read_bytes()[:-100])
    problems = Problems("skip")
    assert read(file, problems=problems) == []
    assert problems.counts == {"broken_file": 1}


def test_sources_that_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "x.docx").write_bytes(b"PK")
    for source, said in (
        (tmp_path / "none", "does not exist"),
        (tmp_path / "x.docx", "kind that is not read"),
    ):
        with pytest.raises(UserError, match=said):
            read(source)
    with pytest.raises(UserError, match="nothing to read"):
        read()


def test_reading_goes_on_from_any_position(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("A text.")
    (tmp_path / "b.jsonl").write_text(lines(RECORDS) + "broken\n", encoding="utf-8")
    (tmp_path / "c.bin").write_bytes(b"\0")
    files = list_files([str(tmp_path)], ReadOptions())
    reader = Reader(files, ReadOptions())
    whole = [(item, reader.position) for item in reader]
    assert len(whole) == 5
    assert reader.bytes_read == sum(file.size for file in files)
    for taken in range(len(whole) + 1):
        start = whole[taken - 1][1] if taken else Position()
        assert list(Reader(files, ReadOptions(), start)) == [item for item, _ in whole[taken:]]


@pytest.mark.slow
def test_a_line_of_a_gigabyte_needs_little_memory(tmp_path: Path) -> None:
    file = tmp_path / "big.jsonl"
    with open(file, "wb") as stream:  # mostly a hole on disk, zeros when read
        stream.write(GOOD + b'\n{"text": "')
        stream.seek(1 << 30, 1)
        stream.write(b'"}\n' + GOOD + b"\n")
    program = f"""
import resource
from retromae.text.sources import read_documents
from retromae.text.problems import Problems
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
problems = Problems()
assert [d.text for d in read_documents([{str(file)!r}], problems=problems)] == ["Good.", "Good."]
assert problems.counts == {{"line_too_long": 1}}, problems
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 200 * 1024, "more than 200 MiB above the start"
