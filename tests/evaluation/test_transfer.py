from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from retromae.core.errors import UserError
from retromae.evaluation import transfer
from retromae.evaluation.transfer import evaluate_transfer
from retromae.evaluation.transfer_data import Examples, Task, read_task


def encode(texts: list[str]) -> np.ndarray:
    """A text of numbers is its own vector."""
    return np.array([[float(word) for word in text.split()] for text in texts])


def blobs(count: int, seed: int, distance: float = 1.0) -> Examples:
    """Two clouds of points in the plane that overlap; all texts have two words."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, size=count)
    points = generator.normal(size=(count, 2)) + distance * labels[:, None]
    return Examples([str(label) for label in labels], [f"{x:.4f} {y:.4f}" for x, y in points])


def in_order(examples: Examples) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(examples.labels, kind="stable")
    return encode(examples.first)[order], np.array([int(label) for label in examples.labels])[order]


def by_cross_validation(x: np.ndarray, y: np.ndarray, folds: int, grid: list[float]) -> tuple[float, float]:
    splits = StratifiedKFold(folds, shuffle=True, random_state=1111)
    means = [
        np.mean([LogisticRegression(C=c).fit(x[a], y[a]).score(x[b], y[b]) for a, b in splits.split(x, y)])
        for c in grid
    ]
    best = int(np.argmax(np.round(means, 4)))
    return grid[best], means[best]


def test_one_set_is_cross_validated_twice() -> None:
    task = Task("MR", blobs(90, 0))
    x, y = in_order(task.train)
    tested, chosen = [], []
    for train, test in StratifiedKFold(3, shuffle=True, random_state=1111).split(x, y):
        c, dev = by_cross_validation(x[train], y[train], 3, [0.25, 0.5, 1, 2, 4, 8])
        chosen.append(dev)
        tested.append(LogisticRegression(C=c).fit(x[train], y[train]).score(x[test], y[test]))
    result = evaluate_transfer(task, encode, folds=3)
    assert (result.accuracy, result.dev) == pytest.approx((np.mean(tested), np.mean(chosen)), abs=1e-4)
    assert result.low <= result.accuracy <= result.high
    assert (result.examples, result.f1) == (90, None)


def test_fits_that_do_not_end_are_told_of_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "_ITERATIONS", 1)
    task = Task("TREC", blobs(80, 1), test=blobs(60, 2))
    with pytest.warns(UserWarning, match="TREC: [0-9]+ logistic regressions stopped after 1 iter") as caught:
        evaluate_transfer(task, encode, folds=4)
    assert len(caught) == 1


def test_train_and_test() -> None:
    task = Task("TREC", blobs(80, 1), test=blobs(60, 2))
    x, y = in_order(task.train)
    c, dev = by_cross_validation(x, y, 4, [0.5, 1, 2, 4, 8, 16, 32])
    wanted = LogisticRegression(C=c).fit(x, y).score(*in_order(task.test or task.train))
    result = evaluate_transfer(task, encode, folds=4)
    assert (result.accuracy, result.dev) == pytest.approx((wanted, dev), abs=1e-4)
    assert result.examples == 60


def test_a_dev_split_chooses_c() -> None:
    task = Task("SST2", blobs(40, 3), dev=blobs(50, 4), test=blobs(60, 5))
    assert task.dev is not None
    x, y = in_order(task.train)
    scores = [LogisticRegression(C=c).fit(x, y).score(*in_order(task.dev)) for c in (0.25, 0.5, 1, 2, 4, 8)]
    assert evaluate_transfer(task, encode).dev == pytest.approx(max(scores), abs=1e-4)


def test_pairs_are_told_apart_by_difference_and_product() -> None:
    """Paraphrases lie close together: neither side alone says anything about it."""

    def pairs(count: int, seed: int) -> Examples:
        generator = np.random.default_rng(seed)
        labels = generator.integers(0, 2, size=count)
        u = generator.normal(size=(count, 2))
        v = np.where(labels[:, None] == 1, u, generator.normal(size=(count, 2)))
        texts = [[f"{x:.4f} {y:.4f}" for x, y in side] for side in (u, v)]
        return Examples([str(label) for label in labels], *texts)

    result = evaluate_transfer(Task("MRPC", pairs(120, 0), test=pairs(80, 1)), encode, folds=3)
    assert result.accuracy > 0.9
    assert result.f1 is not None
    assert result.f1 > 0.9


def test_more_than_two_classes() -> None:
    centres = {"left": "-5 0", "right": "5 0", "top": "0 5"}
    examples = Examples(list(centres) * 6, list(centres.values()) * 6)
    assert evaluate_transfer(Task("T", examples, test=examples), encode, folds=2).accuracy == 1


def test_tasks_that_cannot_be_learned_are_refused() -> None:
    with pytest.raises(UserError, match="one class only"):
        evaluate_transfer(Task("T", Examples(["1", "1"], ["0 1", "1 1"])), encode)
    with pytest.raises(UserError, match=r"rarest class has examples \(2\), got 10"):
        evaluate_transfer(Task("T", Examples(["1", "1", "0", "0"], ["0 1", "1 1", "2 1", "3 1"])), encode)


def test_published_files(tmp_path: Path) -> None:
    files = {
        "MR/rt-polarity.pos": "good  film\n",
        "MR/rt-polarity.neg": "bad caf\xe9\n",
        "SUBJ/subj.objective": "it has two parts\n",
        "SUBJ/subj.subjective": "it drags\n",
        "TREC/train_5500.label": "NUM:dist How far is it ?\n",
        "TREC/TREC_10.label": "LOC:city Where is it ?\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="latin-1")
    assert read_task(tmp_path / "MR") == Task("MR", Examples(["1", "0"], ["good film", "bad café"]))
    assert read_task(tmp_path / "SUBJ").train.labels == ["1", "0"]
    assert read_task(tmp_path / "SUBJ").train.first[0] == "it has two parts"
    assert read_task(tmp_path / "TREC") == Task(
        "TREC", Examples(["NUM"], ["How far is it ?"]), test=Examples(["LOC"], ["Where is it ?"])
    )


def test_sst2_and_mrpc_files(tmp_path: Path) -> None:
    for split in ("train", "dev", "test"):
        (tmp_path / f"sentiment-{split}").write_text(f"a {split} film\t1\n")
    read = read_task(tmp_path)
    assert (read.name, read.dev) == ("SST2", Examples(["1"], ["a dev film"]))
    pairs = tmp_path / "mrpc"
    pairs.mkdir()
    for split in ("train", "test"):
        (pairs / f"msr_paraphrase_{split}.txt").write_text(
            'Quality\t#1\t#2\tA\tB\n0\t7\t8\tSaid "x.\tIt is.\n'
        )
    assert read_task(pairs).train == Examples(["0"], ['Said "x.'], ["It is."])


def test_one_table(tmp_path: Path) -> None:
    head = "split\tlabel\ttext\n"
    (tmp_path / "cls.tsv").write_text(head + "train\tcard\tWhere is it?\ntest\trate\tHow much?\n")
    read = read_task(tmp_path)
    assert (read.name, read.train.labels, read.dev) == (tmp_path.name, ["card"], None)
    assert read.test == Examples(["rate"], ["How much?"])
    (tmp_path / "cls.tsv").write_text(head + "training\tcard\tWhere is it?\n")
    with pytest.raises(UserError, match="training"):
        read_task(tmp_path)
    (tmp_path / "cls.tsv").write_text(head + "train\tcard\ta\ndev\tcard\tb\n")
    with pytest.raises(UserError, match="no test split"):
        read_task(tmp_path)


def test_folders_without_a_task_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no classification task"):
        read_task(tmp_path)
    (tmp_path / "mpqa.pos").write_text("fine\n")
    with pytest.raises(UserError, match=r"cannot read .*mpqa\.neg"):
        read_task(tmp_path)
