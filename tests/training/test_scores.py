"""Scores of a cross-encoder: the same as its own, made once, kept apart by teacher and data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers import CrossEncoder

from retromae.core.errors import UserError
from retromae.models.checkpoint import open_checkpoint, save
from retromae.text.candidates import Candidates
from retromae.text.pairs import Lists, Pairs
from retromae.training.cross_encoder import (
    cross_encoder_fingerprint,
    is_cross_encoder,
    open_cross_encoder,
    score_texts,
)
from retromae.training.scores import ScoreCache, score_candidates, score_pairs
from tiny import FAMILIES, SENTENCES, tiny_model
from training import runs
from training.teachers import open_pairs, some_candidates, spread, write_pairs

TEXTS = [*SENTENCES, "", "  spaces around  ", "Line\nbreak", SENTENCES[0] * 6]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Pairs:
    return open_pairs(write_pairs(tmp_path_factory.mktemp("pairs") / "set"))


@pytest.fixture(scope="module")
def teacher(tiny_folder: Callable[[str], Path]) -> CrossEncoder:
    return spread(open_cross_encoder(tiny_folder("bert"), max_seq_length=48, device="cpu"))


@pytest.mark.parametrize("family", FAMILIES)
def test_any_encoder_opens_with_a_fresh_head_without_a_word(
    family: str,
    tiny_folder: Callable[[str], Path],
    tmp_path: Path,
    recwarn: pytest.WarningsRecorder,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Our own checkpoints too, though their modules.json says that they are a SentenceTransformer."""
    start = open_checkpoint(tiny_folder(family))
    save(tmp_path / "run" / "model", start.backbone, start.tokenizer, {}, {}, 50)
    recwarn.clear()
    capfd.readouterr()
    model = open_cross_encoder(tmp_path / "run", seed=1)  # the run folder does as well
    assert not recwarn.list and capfd.readouterr() == ("", "")
    assert type(model.model).__name__.endswith("ForSequenceClassification") and model.num_labels == 1
    assert model.max_seq_length == 64, "192 is more than the model has positions for"
    given_pairs = [(SENTENCES[i], text) for i, text in enumerate(TEXTS[:8])]
    expected = spread(model).predict(given_pairs)  # its activation is the identity
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(score_texts(model, *zip(*given_pairs)), expected, rtol=1e-4, atol=1e-3)


def test_a_fresh_head_is_drawn_from_the_seed(tiny_folder: Callable[[str], Path]) -> None:
    opened = [open_cross_encoder(tiny_folder("bert"), device="cpu", seed=seed) for seed in (1, 1, 2)]
    first, again, other = map(cross_encoder_fingerprint, opened)
    assert first == again != other


def test_scores_equal_those_of_predict_whatever_the_batches(teacher: CrossEncoder) -> None:
    queries = [TEXTS[i % 7] for i in range(len(TEXTS))]
    expected = teacher.predict(list(zip(queries, TEXTS)), activation_fn=torch.nn.Identity())
    for budget in (1, 100, 100_000):
        got = score_texts(teacher, queries, TEXTS, batch_tokens=budget)
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
    assert np.ptp(expected) > 0.1
    assert len(score_texts(teacher, [], [])) == 0


def test_a_prompt_is_read_as_predict_reads_it(tiny_folder: Callable[[str], Path]) -> None:
    model = open_cross_encoder(tiny_folder("bert"), device="cpu")
    bare = score_texts(model, TEXTS[:3], TEXTS[3:6])
    model.prompts, model.default_prompt_name = {"ask": "Does this answer? "}, "ask"
    prompted = score_texts(model, TEXTS[:3], TEXTS[3:6])
    np.testing.assert_allclose(prompted, model.predict(list(zip(TEXTS[:3], TEXTS[3:6]))), rtol=1e-4)
    assert np.abs(prompted - bare).max() > 1e-6


def test_the_training_mode_is_left_as_it_was(teacher: CrossEncoder) -> None:
    teacher.train()
    first, second = (score_texts(teacher, TEXTS[:3], TEXTS[3:6]) for _ in range(2))
    assert teacher.training and np.array_equal(first, second)  # no dropout
    teacher.eval()


def test_a_trained_cross_encoder_is_opened_as_it_is(teacher: CrossEncoder, tmp_path: Path) -> None:
    teacher.save_pretrained(str(tmp_path / "ours"))
    assert is_cross_encoder(tmp_path / "ours")
    again = open_cross_encoder(tmp_path / "ours", device="cpu")
    assert cross_encoder_fingerprint(again) == cross_encoder_fingerprint(teacher)
    assert again.max_seq_length == 48
    teacher.model.save_pretrained(tmp_path / "bare")  # transformers' layout: no word of sentence-transformers
    teacher.tokenizer.save_pretrained(tmp_path / "bare")
    bare = open_cross_encoder(tmp_path / "bare", device="cpu")
    expected = score_texts(teacher, TEXTS[:4], TEXTS[4:8])
    np.testing.assert_allclose(score_texts(bare, TEXTS[:4], TEXTS[4:8]), expected, rtol=1e-5)


@pytest.mark.parametrize("part", ["pooler.dense.weight", "classifier.bias", "word_embeddings.weight"])
def test_the_fingerprint_knows_every_weight(part: str, tiny_folder: Callable[[str], Path]) -> None:
    """The pooler too, which an encoder's fingerprint passes over: a cross-encoder reads it."""
    model = open_cross_encoder(tiny_folder("bert"), device="cpu")
    before = cross_encoder_fingerprint(model)
    (weight,) = (weight for name, weight in model.named_parameters() if name.endswith(part))
    with torch.no_grad():
        weight.view(-1)[0] += 1.0
    assert cross_encoder_fingerprint(model) != before


def test_the_fingerprint_knows_length_and_precision(teacher: CrossEncoder) -> None:
    before = cross_encoder_fingerprint(teacher)
    assert cross_encoder_fingerprint(teacher, bf16=True) != before
    teacher.max_seq_length = 40
    assert cross_encoder_fingerprint(teacher) != before
    teacher.max_seq_length = 48
    assert cross_encoder_fingerprint(teacher) == before


def test_models_that_cannot_be_a_teacher_are_refused(
    tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    tiny_model("bert", tmp_path / "three", num_labels=3, architectures=["BertForSequenceClassification"])
    config = (tmp_path / "three" / "config.json").read_text()
    (tmp_path / "three" / "config.json").write_text(
        config.replace("BertForMaskedLM", "BertForSequenceClassification")
    )
    with pytest.raises(UserError, match="gives 3 scores"):
        open_cross_encoder(tmp_path / "three")
    with pytest.raises(UserError, match="takes 8 to 64 tokens"):
        open_cross_encoder(tiny_folder("bert"), max_seq_length=65)
    with pytest.raises(UserError, match="there is no folder"):
        open_cross_encoder(tmp_path / "nowhere")


# The cache


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_the_cache_gives_what_was_added_and_nothing_else(
    data: st.DataObject, pairs: Pairs, tmp_path_factory: pytest.TempPathFactory
) -> None:
    cache = ScoreCache(tmp_path_factory.mktemp("cache"), "teacher", pairs)
    pair = st.tuples(st.integers(0, len(pairs) - 1), st.integers(0, len(pairs.passages) - 1))
    known: dict[tuple[int, int], float] = {}
    for part in data.draw(st.lists(st.lists(pair, unique=True, max_size=6), max_size=4)):
        fresh = [each for each in part if each not in known]
        known |= {each: 10.0 * each[0] + each[1] for each in fresh}
        numbers = np.array(fresh, dtype=np.int64).reshape(-1, 2)
        cache.add(*numbers.T, np.array([known[each] for each in fresh], dtype=np.float32))
    asked = data.draw(st.lists(pair, max_size=12)) + list(known)
    numbers = np.array(asked, dtype=np.int64).reshape(-1, 2)
    expected = np.array([known.get(each, np.nan) for each in asked], dtype=np.float32)
    for opened in (cache, ScoreCache(cache.folder.parents[1], "teacher", pairs)):
        np.testing.assert_array_equal(opened.lookup(*numbers.T), expected)
    assert np.isnan(ScoreCache(cache.folder.parents[1], "another", pairs).lookup(*numbers.T)).all()


def _pair_rows(pairs: Pairs, lists: Lists) -> tuple[list[str], list[str]]:
    queries = [pairs.queries[row].text for row in range(len(pairs)) for _ in lists[row]]
    texts = [pairs.passages[int(number)] for row in range(len(pairs)) for number in lists[row]]
    return queries, [f"{p.title} {p.text}" if p.title else p.text for p in texts]


@pytest.mark.parametrize("part_pairs", [1, 40, 10_000])
def test_every_answer_and_candidate_gets_the_teachers_score(
    part_pairs: int, teacher: CrossEncoder, pairs: Pairs, tmp_path: Path
) -> None:
    candidates = some_candidates(pairs)
    scores = score_candidates(teacher, pairs, candidates, tmp_path, part_pairs=part_pairs)
    for got, lists in ((scores.positives, pairs.positives), (scores.candidates, candidates.lists)):
        expected = teacher.predict(list(zip(*_pair_rows(pairs, lists))))
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
    files = list(tmp_path.rglob("*.parquet"))
    assert len(files) == {1: len(pairs), 40: 7, 10_000: 1}[part_pairs]
    table = pq.read_table(files[0]).to_pydict()
    place = table["passage"][0]
    assert table["passage_id"][0] == pairs.passages[place].id
    assert table["query_id"][0] == pairs.queries[table["query"][0]].id


def test_what_is_there_is_not_scored_again(teacher: CrossEncoder, pairs: Pairs, tmp_path: Path) -> None:
    few = some_candidates(pairs, depth=4)
    first = score_candidates(teacher, pairs, few, tmp_path, part_pairs=40)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")}
    again = score_candidates(teacher, pairs, few, tmp_path, part_pairs=40)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")} == files
    np.testing.assert_array_equal(first.candidates, again.candidates)
    lost = sorted(files)[2]
    lost.unlink()  # as if killed before it was written
    mended = score_candidates(teacher, pairs, few, tmp_path, part_pairs=40)
    np.testing.assert_allclose(mended.candidates, first.candidates, rtol=1e-5, atol=1e-4)
    assert lost.exists()
    more = some_candidates(pairs, depth=7, seed=1)
    score_candidates(teacher, pairs, more, tmp_path, part_pairs=10_000)
    fresh = [path for path in tmp_path.rglob("*.parquet") if path not in files]
    rows = sum(pq.read_metadata(path).num_rows for path in tmp_path.rglob("*.parquet"))
    keys = {
        (row, int(number))
        for lists in (pairs.positives, few.lists, more.lists)
        for row in range(len(pairs))
        for number in lists[row]
    }
    assert len(fresh) == 1 and rows == len(keys), "each pair once"


@pytest.mark.parametrize("part_pairs", [3, 10_000])
def test_pairs_that_are_asked_for_are_scored_and_no_others(
    part_pairs: int, teacher: CrossEncoder, pairs: Pairs, tmp_path: Path
) -> None:
    candidates = some_candidates(pairs)
    every = score_candidates(teacher, pairs, candidates, tmp_path / "every")
    rows = np.arange(0, len(candidates.lists.members), 7)
    queries, passages = candidates.lists.owners[rows], candidates.lists.members[rows]
    scores = score_pairs(teacher, pairs, queries, passages, tmp_path / "some", part_pairs=part_pairs)
    np.testing.assert_allclose(scores, every.candidates[rows], rtol=1e-5, atol=1e-4)
    files = list((tmp_path / "some").rglob("*.parquet"))
    assert sum(pq.read_metadata(path).num_rows for path in files) == len(rows)
    none = np.empty(0, dtype=np.int64)
    assert len(score_pairs(teacher, pairs, none, none, tmp_path / "none")) == 0


def test_scores_of_other_data_are_never_taken(teacher: CrossEncoder, pairs: Pairs, tmp_path: Path) -> None:
    """The same ids with other texts: a cache that goes by ids alone would give the old scores."""
    folder = write_pairs(tmp_path / "set")
    corpus = (folder / "corpus.jsonl").read_text()
    (folder / "corpus.jsonl").write_text(corpus.replace("lantern", "kettle"))
    other = open_pairs(folder)
    mine = score_candidates(teacher, pairs, some_candidates(pairs), tmp_path / "scores")
    theirs = score_candidates(teacher, other, some_candidates(other), tmp_path / "scores")
    assert np.abs(mine.candidates - theirs.candidates).max() > 1e-6
    assert ScoreCache.open(tmp_path / "scores", other).folder == theirs.cache.folder


def test_opening_scores(teacher: CrossEncoder, pairs: Pairs, tmp_path: Path) -> None:
    scores = score_candidates(teacher, pairs, some_candidates(pairs), tmp_path / "run" / "scores")
    for path in (tmp_path / "run", tmp_path / "run" / "scores"):
        assert ScoreCache.open(path, pairs).teacher == scores.cache.teacher
    with pytest.raises(UserError, match="holds no scores for"):
        ScoreCache.open(tmp_path, pairs)
    ScoreCache(tmp_path / "run" / "scores", "another", pairs).add(
        *np.zeros((2, 1), int), np.ones(1, np.float32)
    )
    with pytest.raises(UserError, match="scores of 2 teachers"):
        ScoreCache.open(tmp_path / "run", pairs)
    next(scores.cache.folder.glob("*.parquet")).write_bytes(b"half a fi")
    with pytest.raises(UserError, match="is damaged"):
        scores.cache.lookup(np.zeros(1, int), np.zeros(1, int))


def test_a_teacher_that_gives_no_numbers_is_refused(
    tiny_folder: Callable[[str], Path], pairs: Pairs, tmp_path: Path
) -> None:
    model = open_cross_encoder(tiny_folder("bert"), device="cpu")
    with torch.no_grad():
        model.model.classifier.bias.fill_(float("nan"))
    with pytest.raises(UserError, match="no numbers"):
        score_candidates(model, pairs, some_candidates(pairs), tmp_path)
    assert not list(tmp_path.rglob("*.parquet"))


TWO = """
import sys
from pathlib import Path
import numpy as np
from retromae.core import distributed
from training.teachers import open_pairs, some_candidates, spread
from retromae.training.cross_encoder import open_cross_encoder
from retromae.training.scores import score_candidates
distributed.start()
pairs = open_pairs(Path(sys.argv[1]))
teacher = spread(open_cross_encoder(sys.argv[2], max_seq_length=48))
scores = score_candidates(teacher, pairs, some_candidates(pairs), sys.argv[3], part_pairs=40)
np.savez(f"{sys.argv[3]}/rank-{distributed.rank()}.npz", a=scores.positives, b=scores.candidates)
"""


@pytest.mark.slow
def test_two_processes_share_the_work(
    teacher: CrossEncoder, tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = write_pairs(tmp_path / "set")
    pairs = open_pairs(folder)
    script = tmp_path / "two.py"
    script.write_text(TWO)
    (tmp_path / "scores").mkdir()
    words = [str(script), str(folder), str(tiny_folder("bert")), str(tmp_path / "scores")]
    done = runs.launch(words, processes=2, PYTHONPATH=str(Path(__file__).parents[1]))
    assert done.returncode == 0, done.stderr
    alone = score_candidates(teacher, pairs, some_candidates(pairs), tmp_path / "alone", part_pairs=40)
    files = [sorted(p.name for p in (tmp_path / name).rglob("*.parquet")) for name in ("scores", "alone")]
    assert files[0] == files[1], "nothing was scored twice"
    for rank in (0, 1):
        found = np.load(tmp_path / "scores" / f"rank-{rank}.npz")
        np.testing.assert_allclose(found["a"], alone.positives, rtol=1e-5, atol=1e-4)
        np.testing.assert_allclose(found["b"], alone.candidates, rtol=1e-5, atol=1e-4)


def test_candidates_may_be_empty(teacher: CrossEncoder, pairs: Pairs, tmp_path: Path) -> None:
    nothing = Candidates(Lists.from_lists([[] for _ in range(len(pairs))]), np.empty(0, np.float32), {})
    scores = score_candidates(teacher, pairs, nothing, tmp_path)
    assert len(scores.candidates) == 0 and np.isfinite(scores.positives).all()
