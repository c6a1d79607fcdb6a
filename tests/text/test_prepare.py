"""From sources to rows on disk: content, order, interruption, refusal."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from retromae.core.errors import UserError
from retromae.text.rows import PrepareConfig, Rows, prepare
from retromae.text.vocabulary import tokenizer_fingerprint

WORDS = ["amber", "bridge", "candle", "dune", "ember", "fjord", "glacier", "harbour", "island", "juniper"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One token per word, so that counts can be read off the text."""
    pieces = [*SPECIAL, ".", *WORDS, "title", *(str(n) for n in range(10)), *(f"##{n}" for n in range(10))]
    backend = Tokenizer(models.WordPiece({p: i for i, p in enumerate(pieces)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL))
    folder = tmp_path_factory.mktemp("tokenizer")
    PreTrainedTokenizerFast(tokenizer_object=backend, **names).save_pretrained(folder)
    return str(folder)


def sentence(draw: random.Random, length: int) -> str:
    return " ".join(draw.choice(WORDS) for _ in range(length)).capitalize() + "."


def corpus(path: Path, documents: int, seed: int = 0) -> Path:
    draw = random.Random(seed)
    with open(path, "w", encoding="utf-8") as stream:
        for number in range(documents):
            text = " ".join(sentence(draw, draw.randint(2, 12)) for _ in range(draw.randint(1, 12)))
            stream.write(json.dumps({"_id": f"doc{number}", "title": f"Title {number}", "text": text}) + "\n")
    return path


def content(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def quick(config: PrepareConfig, **changes: Any) -> Any:
    return prepare(replace(config, **changes), progress=False)


@pytest.fixture
def config(tmp_path: Path, tokenizer: str) -> PrepareConfig:
    source = corpus(tmp_path / "corpus.jsonl", 300)
    return PrepareConfig(
        [str(source)], str(tmp_path / "rows"), tokenizer, max_tokens=40, workers=1, shard_tokens=4000
    )


def test_rows_hold_what_the_sources_say(config: PrepareConfig, tokenizer: str) -> None:
    info = quick(config)
    rows = Rows.open(config.out)
    records = map(json.loads, Path(config.sources[0]).read_text(encoding="utf-8").splitlines())
    read = {record["_id"]: record for record in records}
    table = datasets.load_from_disk(config.out)
    reader = AutoTokenizer.from_pretrained(tokenizer)
    assert info.passages == len(rows) == len(table)
    assert info.documents == 300
    assert info.tokens == rows.lengths.sum() == sum(len(row["token_ids"]) for row in table)
    assert sum(info.length_histogram) == info.passages
    per_document: dict[str, list[int]] = {}
    for index, row in enumerate(table):
        source = read[row["document"]]
        title, body = row["token_ids"][: row["title_length"]], row["token_ids"][row["title_length"] :]
        passage = source["text"][row["start"] : row["end"]]
        assert len(row["token_ids"]) <= config.max_tokens
        assert title == reader(source["title"], add_special_tokens=False)["input_ids"]
        assert body == reader(passage, add_special_tokens=False)["input_ids"]
        # the title is a sentence, and after it a sentence begins behind every full stop
        stop = reader.convert_tokens_to_ids(".")
        ends = [i + 1 for i, token in enumerate(row["token_ids"]) if token == stop]
        assert row["sentence_starts"] == [0, len(title), *ends[:-1]]
        assert rows.id(index) == row["id"]
        assert rows.sentence_starts(index).tolist() == row["sentence_starts"]
        per_document.setdefault(row["document"], []).append(row["id"])
    assert list(per_document) == list(read), "in the order of the sources"
    for document, ids in per_document.items():
        assert ids == ([document] if len(ids) == 1 else [f"{document}#{k}" for k in range(len(ids))])
    assert rows.title_lengths.tolist() == table["title_length"]
    assert rows.tokenizer_path is not None
    assert (
        tokenizer_fingerprint(AutoTokenizer.from_pretrained(rows.tokenizer_path))
        == info.tokenizer_fingerprint
    )
    assert not (Path(config.out) / "unfinished").exists()


def test_titles_can_be_left_out(config: PrepareConfig) -> None:
    quick(config, title="omit")
    rows = Rows.open(config.out)
    assert not rows.title_lengths.any()
    assert rows.sentence_starts(0)[0] == 0


def test_special_tokens_in_the_text_are_text(config: PrepareConfig, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"text": "amber [MASK] bridge [SEP] [CLS] candle"}\n')
    quick(config, sources=[str(tmp_path / "x.jsonl")])
    ids = set(Rows.open(config.out).take([0])[0].tolist())
    assert not ids & {0, 2, 3, 4}


def test_without_splitting_each_document_is_a_row(config: PrepareConfig) -> None:
    info = quick(config, split=False)
    rows = Rows.open(config.out)
    assert len(rows) == 300
    assert [rows.id(k) for k in range(3)] == ["doc0", "doc1", "doc2"]
    assert 0 < info.cut_off <= (rows.lengths == config.max_tokens).sum()


def test_the_number_of_workers_changes_nothing(config: PrepareConfig, tmp_path: Path) -> None:
    corpus(tmp_path / "corpus.jsonl", 3000)  # several chunks
    quick(config, workers=1)
    quick(config, workers=2, out=str(tmp_path / "two"))
    assert content(Path(config.out)) == content(tmp_path / "two")


def test_duplicates_are_left_out_once(config: PrepareConfig, tmp_path: Path) -> None:
    copy = tmp_path / "copy.jsonl"
    copy.write_text(Path(config.sources[0]).read_text().replace('"doc', '"again').replace(". ", ".  "))
    both = [*config.sources, str(copy)]
    single = quick(config)
    info = quick(config, sources=both, out=str(tmp_path / "both"))
    assert (info.passages, info.duplicates) == (single.passages, single.passages)
    assert info.documents == 600
    kept = quick(config, sources=both, out=str(tmp_path / "kept"), dedupe=False)
    assert (kept.passages, kept.duplicates) == (2 * single.passages, 0)


PROGRAM = """
import sys
from retromae.text.rows import PrepareConfig, prepare
if __name__ == "__main__":
    source, out, tokenizer, workers = sys.argv[1:]
    prepare(PrepareConfig([source], out, tokenizer, max_tokens=40, workers=int(workers), shard_tokens=8000), False)
"""


def hard_corpus(path: Path) -> Path:
    """Several chunks, a broken line, and duplicates of what stands in the first shard."""
    corpus(path, 3500)
    first = path.read_text(encoding="utf-8").splitlines(keepends=True)[:500]
    with open(path, "a", encoding="utf-8") as stream:
        stream.writelines(["broken\n", *first])
    return path


def start(tmp_path: Path, source: Path, tokenizer: str, workers: int) -> subprocess.Popen[bytes]:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    command = [sys.executable, program, source, tmp_path / "rows", tokenizer, str(workers)]
    return subprocess.Popen([str(part) for part in command])


def test_killed_and_called_again_equals_undisturbed(
    config: PrepareConfig, tmp_path: Path, tokenizer: str
) -> None:
    source, out = hard_corpus(tmp_path / "corpus.jsonl"), tmp_path / "rows"
    run = start(tmp_path, source, tokenizer, workers=2)
    deadline = time.monotonic() + 120
    while len(list(out.glob("rows-*.arrow"))) < 2:
        assert run.poll() is None, "finished before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    with pytest.raises(UserError, match="interrupted"):
        Rows.open(out)
    config.shard_tokens = 8000
    undisturbed = quick(config, out=str(tmp_path / "other"))
    written = os.stat(out / "rows-00000.arrow").st_mtime_ns
    info = quick(config)
    assert os.stat(out / "rows-00000.arrow").st_mtime_ns == written, "not done again"
    assert content(out) == content(tmp_path / "other")
    assert info == undisturbed
    assert info.problems["counts"] == {"broken_json": 1}
    assert info.duplicates > 0
    assert len(info.shards) > 3


@pytest.mark.slow
def test_killed_five_times_at_random_equals_undisturbed(
    config: PrepareConfig, tmp_path: Path, tokenizer: str
) -> None:
    source, out = hard_corpus(tmp_path / "corpus.jsonl"), tmp_path / "rows"
    draw = random.Random()
    for _ in range(5):
        run = start(tmp_path, source, tokenizer, workers=1)
        time.sleep(draw.uniform(0.5, 3))
        run.kill()
        run.wait()
    config.shard_tokens = 8000
    quick(config)
    quick(config, out=str(tmp_path / "other"))
    assert content(out) == content(tmp_path / "other")


def test_any_torn_state_of_the_journal_is_gone_on_with(config: PrepareConfig, tmp_path: Path) -> None:
    """The journal cut at every line and in the middle of a line, with later files still lying about."""
    hard_corpus(tmp_path / "corpus.jsonl")
    config.shard_tokens = 8000
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("retromae.text.shards.shutil.rmtree", lambda *a, **k: None)  # keep the journal
        quick(config)
    done = Path(config.out)
    whole = {name: digest for name, digest in content(done).items() if not name.startswith("unfinished")}
    lines = (done / "unfinished" / "journal.jsonl").read_bytes().splitlines(keepends=True)
    assert len(lines) >= 4
    for kept in (0, 1, len(lines) - 1):
        torn = tmp_path / f"torn{kept}"
        shutil.copytree(done, torn)
        (torn / "unfinished" / "journal.jsonl").write_bytes(b"".join(lines[:kept]) + lines[kept][:25])
        (torn / "rows.json").unlink()
        (torn / ".rows-00001.arrow.123.tmp").write_bytes(b"torn")
        quick(config, out=str(torn))
        assert content(torn) == whole


def test_called_again_when_done_it_returns_at_once(config: PrepareConfig) -> None:
    first = quick(config)
    before = {path: path.stat().st_mtime_ns for path in Path(config.out).rglob("*")}
    assert quick(config, workers=2) == first
    assert before == {path: path.stat().st_mtime_ns for path in Path(config.out).rglob("*")}


def test_other_settings_and_changed_sources_are_refused(config: PrepareConfig) -> None:
    quick(config)
    with pytest.raises(UserError, match=r"max_tokens = 40, now it is 50.*start anew"):
        quick(config, max_tokens=50)
    with open(config.sources[0], "a") as stream:
        stream.write('{"text": "amber"}\n')
    with pytest.raises(UserError, match=r"changed.*corpus.jsonl.*start anew"):
        quick(config)


def test_a_folder_with_other_things_is_left_alone(config: PrepareConfig) -> None:
    out = Path(config.out)
    out.mkdir()
    (out / "thesis.doc").write_text("years of work")
    with pytest.raises(UserError, match="something else"):
        quick(config)
    assert (out / "thesis.doc").read_text() == "years of work"


def test_stop_names_the_line_and_the_mended_file_can_be_prepared(config: PrepareConfig) -> None:
    source = Path(config.sources[0])
    good = source.read_text()
    source.write_text(good + "broken\n")
    with pytest.raises(UserError, match=r"corpus.jsonl:301: .*not valid JSON"):
        quick(config, on_error="stop", shard_tokens=10**6)
    with pytest.raises(UserError, match="interrupted"):
        Rows.open(config.out)
    source.write_text(good)
    assert quick(config, on_error="stop", shard_tokens=10**6).documents == 300


def test_sources_without_text_are_refused_and_leave_nothing(config: PrepareConfig, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text('{"text": ""}\n')
    for changes in ({}, {"tokenizer": None, "train_tokenizer": 300}):
        with pytest.raises(UserError, match="no text"):
            quick(config, sources=[str(tmp_path / "empty.jsonl")], **changes)
        assert not Path(config.out).exists()


def test_a_folder_of_mixed_files(config: PrepareConfig, tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "a.md").write_text("# Amber bridge\n\nCandle dune. Ember fjord.")
    (docs / "b.html").write_text("<title>Glacier</title><p>Harbour island.<p>Juniper.")
    (docs / "c.txt").write_bytes(b"caf\xe9")
    (docs / "d.png").write_bytes(b"\x89PNG")
    (docs / "e.txt").write_text("\u200b")  # the tokenizer removes it
    info = quick(config, sources=[str(docs)])
    rows = Rows.open(config.out)
    assert [rows.id(k) for k in range(len(rows))] == ["a.md", "b.html"]
    assert rows.lengths.tolist() == [8, 6]
    assert info.problems["counts"] == {"not_read": 1, "wrong_encoding": 1, "no_tokens": 1}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sources": []}, "nothing to read"),
        ({"tokenizer": None}, "train-tokenizer"),
        ({"train_tokenizer": 500}, "one of the two"),
        ({"max_tokens": 1}, "max_tokens"),
        ({"min_tokens": -1}, "min_tokens"),
        ({"splitter": "none"}, "splitter"),
        ({"tokenizer": "no/such-tokenizer"}, "cannot be opened"),
        ({"tokenizer": None, "train_tokenizer": 5}, "too small"),
    ],
)
def test_settings_that_cannot_be(config: PrepareConfig, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        quick(config, **changes)


def test_progress_tells_speed(config: PrepareConfig, capsys: pytest.CaptureFixture[str]) -> None:
    prepare(config, progress=True)
    shown = capsys.readouterr().out
    assert "300 documents" in shown
    assert "MB/s" in shown
    assert "100%" in shown


def test_every_setting_has_a_help_text() -> None:
    for item in PrepareConfig.__dataclass_fields__.values():
        assert item.metadata["help"].endswith("."), item.name


@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
def test_tokenizer_trained_on_the_sources(config: PrepareConfig, tmp_path: Path, kind: str) -> None:
    for name in ("one", "two"):
        quick(config, tokenizer=None, train_tokenizer=300, tokenizer_type=kind, out=str(tmp_path / name))
    assert content(tmp_path / "one") == content(tmp_path / "two"), "training is repeatable"
    trained = AutoTokenizer.from_pretrained(tmp_path / "one" / "tokenizer")
    info = Rows.open(tmp_path / "one").info
    assert info is not None
    assert info.vocab_size == len(trained) <= 300
    ids = trained("Amber bridge")["input_ids"]
    assert (ids[0], ids[-1]) == (trained.cls_token_id, trained.sep_token_id)
    assert trained.decode(ids, skip_special_tokens=True).strip() == "amber bridge"
    assert [trained.pad_token, trained.unk_token, trained.mask_token] == ["[PAD]", "[UNK]", "[MASK]"]
    assert trained("a", "b")["token_type_ids"][-1] == 1
