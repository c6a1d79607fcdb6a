from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from pathlib import Path

import pytest

from retromae.core.errors import UserError
from retromae.text.collections import Collection, full_text
from retromae.text.layouts import read_qrels
from retromae.text.sources import Document

CORPUS = [
    {"_id": "d1", "title": "Tides", "text": "The moon pulls the sea."},
    {"_id": "d2", "text": "Bread rises because yeast makes gas."},
    {"_id": "d3", "title": "", "text": "Iron rusts in damp air."},
]
QUERIES = [
    {"_id": "q1", "text": "why are there tides", "answers": ["the moon"]},
    {"_id": "q2", "text": "what makes dough rise"},
    {"_id": "q3", "text": "a question of another split"},
]


def beir(folder: Path, corpus: list[dict[str, str]] | None = None, qrels: str | None = None) -> Path:
    (folder / "qrels").mkdir(parents=True)
    for name, rows in (("corpus", CORPUS if corpus is None else corpus), ("queries", QUERIES)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = "q1\td1\t2\nq1\td3\t0\nq2\td2\t1\n" if qrels is None else qrels
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + lines)
    return folder


def parts(documents: Iterable[Document]) -> list[tuple[str, str, str]]:
    return [(document.id, document.title, document.text) for document in documents]


def test_a_beir_folder(tmp_path: Path) -> None:
    collection = Collection.open(beir(tmp_path / "mini"), "test")
    assert (collection.name, collection.split, len(collection)) == ("mini", "test", 3)
    assert list(collection.queries) == ["q1", "q2"]
    assert collection.qrels == {"q1": {"d1": 2, "d3": 0}, "q2": {"d2": 1}}
    assert collection.answers == {"q1": ["the moon"]}
    assert full_text(next(collection.corpus())) == "Tides The moon pulls the sea."
    assert list(collection.corpus()) == list(collection.corpus())
    assert parts(collection.pick({"d2"}).values()) == [("d2", "", CORPUS[1]["text"])]
    assert collection.unknown == 0


def test_gzip_beside_plain_files(tmp_path: Path) -> None:
    folder = beir(tmp_path / "mini")
    plain = folder / "corpus.jsonl"
    with gzip.open(folder / "corpus.jsonl.gz", "wb") as stream:
        stream.write(plain.read_bytes())
    plain.unlink()
    assert len(Collection.open(folder)) == 3
    packed = (folder / "corpus.jsonl.gz").read_bytes()
    (folder / "corpus.jsonl.gz").write_bytes(packed[:-20])
    with pytest.raises(UserError, match=r"corpus\.jsonl\.gz:\d+: .* damaged"):
        Collection.open(folder)


def test_ms_marco_files(tmp_path: Path) -> None:
    (tmp_path / "collection.tsv").write_text("0\tRain falls.\n1\tSnow\tmelts.\n")
    (tmp_path / "queries.dev.small.tsv").write_text("7\twhat falls\n8\tunjudged\n")
    (tmp_path / "qrels.dev.small.tsv").write_text("7\t0\t0\t1\n")
    collection = Collection.open(tmp_path, "dev.small")
    assert collection.queries == {"7": "what falls"}
    assert collection.qrels == {"7": {"0": 1}}
    assert parts(collection.corpus()) == [("0", "", "Rain falls."), ("1", "", "Snow\tmelts.")]
    with pytest.raises(UserError, match=r"queries\.dev\.tsv; beside it there are .*queries\.dev\.small\.tsv"):
        Collection.open(tmp_path, "dev")


def test_natural_questions_in_dprs_files(tmp_path: Path) -> None:
    (tmp_path / "psgs_w100.tsv").write_text(
        'id\ttext\ttitle\n1\t"He said ""no""."\tTalk\n2\tRivers flow.\tRivers\n'
    )
    (tmp_path / "nq-test.qa.csv").write_text("""what flows\t['rivers', "a river's water"]\n""")
    collection = Collection.open(tmp_path)
    assert parts(collection.corpus())[0] == ("1", "Talk", 'He said "no".')
    assert collection.queries == {"1": "what flows"}
    assert collection.answers == {"1": ["rivers", "a river's water"]}
    assert collection.qrels == {}
    (tmp_path / "nq-test.qa.csv").write_text("what flows\t__import__('os')\n")
    with pytest.raises(UserError, match="row 1"):
        Collection.open(tmp_path)


def test_judgements_with_any_columns(tmp_path: Path) -> None:
    path = tmp_path / "qrels"
    path.write_text("q 0 d 1\nq 0 e -1\nq 0 d 1\n")
    assert read_qrels(path) == {"q": {"d": 1, "e": -1}}
    path.write_text("q\td\t1\nq\ta document\t2\n")
    assert read_qrels(path) == {"q": {"d": 1, "a document": 2}}
    path.write_text("q\td\t1\nq\td\t2\n")
    with pytest.raises(UserError, match=r":2: .* second grade"):
        read_qrels(path)
    path.write_text("q\td\t1\nq\td\thigh\n")
    with pytest.raises(UserError, match=":2: "):
        read_qrels(path)
    path.write_text("query-id\tcorpus-id\tscore\n")
    with pytest.raises(UserError, match="no judgement"):
        read_qrels(path)


def test_documents_need_ids_of_their_own(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=":2: there is no id"):
        Collection.open(beir(tmp_path / "a", [CORPUS[0], {"text": "nameless"}]))
    with pytest.raises(UserError, match="'d1' twice"):
        Collection.open(beir(tmp_path / "b", [*CORPUS, CORPUS[0]]))
    with pytest.raises(UserError, match="no document"):
        Collection.open(beir(tmp_path / "c", []))
    with pytest.raises(UserError, match=":1: the document has no text"):
        Collection.open(beir(tmp_path / "d", [{"_id": "d1", "body": "elsewhere"}]))


def test_unknown_documents_are_refused_or_counted(tmp_path: Path) -> None:
    folder = beir(tmp_path / "mini", qrels="q1\td1\t1\nq2\tgone\t1\n")
    with pytest.raises(UserError, match=r"1 of 2 judged documents .* 'gone'"):
        Collection.open(folder)
    with pytest.warns(UserWarning, match="1 of 2 judged documents"):
        collection = Collection.open(folder, on_error="warn")
    assert collection.unknown == 1
    assert collection.qrels["q2"] == {"gone": 1}


def test_queries_without_text_are_refused_or_left_out(tmp_path: Path) -> None:
    folder = beir(tmp_path / "mini", qrels="q1\td1\t1\nq9\td2\t1\n")
    with pytest.raises(UserError, match=r"1 queries .* 'q9'"):
        Collection.open(folder)
    with pytest.warns(UserWarning, match="q9"):
        collection = Collection.open(folder, on_error="warn")
    assert list(collection.queries) == ["q1"]
    assert list(collection.qrels) == ["q1", "q9"]


def test_other_bad_folders(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no folder"):
        Collection.open(tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds no collection"):
        Collection.open(tmp_path)
    folder = beir(tmp_path / "mini")
    with pytest.raises(UserError, match=r"dev\.tsv; beside it there are test\.tsv"):
        Collection.open(folder, "dev")
    (folder / "queries.jsonl").write_text('{"_id": "q1", "text": "once"}\n{"_id": "q1", "text": "again"}\n')
    with pytest.raises(UserError, match=":2: the query id 'q1' occurs twice"):
        Collection.open(folder)
    (folder / "queries.jsonl").write_text('{"_id": "q1", "text"\n')
    with pytest.raises(UserError, match=":1: this is not JSON"):
        Collection.open(folder)
    (folder / "queries.jsonl").write_bytes(b'{"_id": "q1", "text": "caf\xe9"}\n')
    with pytest.raises(UserError, match="not valid UTF-8"):
        Collection.open(folder)
