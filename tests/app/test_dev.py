"""The dev set that checkpoints are chosen on: real retrieval on a part of the corpus."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from retromae.app.dev import dev_set
from retromae.app.encoders import EncoderSettings
from retromae.app.evaluate import EvaluateConfig, evaluate
from retromae.retrieval.encoder import Encoder
from retromae.retrieval.opening import open_model
from training.finetuning import write_collection

Tiny = Callable[[str], Path]


@pytest.mark.parametrize("terms", [None, 6])
def test_on_the_whole_corpus_it_says_what_evaluate_says(
    tiny_folder: Tiny, tmp_path: Path, terms: int | None
) -> None:
    data = write_collection(tmp_path / "data")
    pooling = None if terms else "cls"
    judge, held_out = dev_set(
        data, "dev", train="train", queries=99, passages=99, metric="MRR@10", cache=str(tmp_path / "cache")
    )
    model = open_model(tiny_folder("bert"), pooling=pooling, lexical_terms=terms, device="cpu")
    figures = judge(model)
    config = EvaluateConfig(
        beir=[str(data)], split="dev", metrics=["nDCG@10", "RR@10", "R@100"], leakage=False
    )
    settings = EncoderSettings(pooling=pooling, lexical_terms=terms, device="cpu")
    result = evaluate(str(tiny_folder("bert")), config, settings).sets[0].results[0]
    assert not len(held_out) and list(figures) == ["RR@10", "nDCG@10", "R@100"]
    assert figures == pytest.approx({name: result[name] for name in figures})


def test_a_part_holds_every_answer_and_what_bm25_finds(tmp_path: Path) -> None:
    data = write_collection(tmp_path / "data")
    judge, _ = dev_set(
        data, "dev", train="train", queries=5, passages=30, metric="nDCG@10", cache=str(tmp_path / "cache")
    )
    texts = {passage.id: passage.text for passage in judge.passages}
    assert len(judge.queries) == 5 and len(judge.passages) == 30 == len(texts)
    for query, text in judge.queries.items():
        noun, answers = text.split()[1], judge.qrels[query]
        assert answers and all(noun in texts[answer] for answer in answers)
        assert sum(noun in text for text in texts.values()) > len(answers)  # hard ones, not random alone


def test_rankings_can_leave_the_lexical_half_out_and_have_bm25_beside(
    tiny_folder: Tiny, tmp_path: Path
) -> None:
    data = write_collection(tmp_path / "data")
    judge, _ = dev_set(
        data, "dev", train="train", queries=9, passages=40, metric="nDCG@10", cache=str(tmp_path / "cache")
    )
    plain = Encoder(open_model(tiny_folder("bert"), pooling="cls", lexical_terms=None, device="cpu"))
    halves = Encoder(open_model(tiny_folder("bert"), pooling=None, lexical_terms=6, device="cpu"))
    dense, both = judge.rank(plain), judge.rank(halves)
    assert list(judge.rank(halves, dense_only=True)) == list(dense) == list(judge.queries)
    for query in dense:
        assert judge.rank(halves, dense_only=True)[query].ids == dense[query].ids
    assert any(both[query].ids != dense[query].ids for query in dense)
    bm25 = judge.bm25()
    for query, text in judge.queries.items():
        own = {passage.id for passage in judge.passages if text.split()[1] in passage.text}
        assert own <= set(bm25[query].ids)


def test_without_a_dev_split_training_queries_are_held_out(tmp_path: Path) -> None:
    lines = [f'{{"query": "q {n}", "pos": ["answer {n}"]}}' for n in range(100)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    with pytest.warns(UserWarning, match="held out"):
        judge, held_out = dev_set(
            tmp_path / "pairs.jsonl",
            "dev",
            train="train",
            queries=50,
            passages=1000,
            metric="nDCG@10",
            cache=str(tmp_path / "cache"),
        )
    assert len(held_out) == 5 == len(judge.queries) and len(judge.passages) == 100
