"""SentEval transfer: logistic regression on frozen vectors, by SentEval's protocol.

| data has | tasks | regularisation C chosen by | C from |
|---|---|---|---|
| one set | MR, CR, SUBJ, MPQA | 10-fold cross-validation inside each of 10 folds | 2^-2 … 2^3 |
| train, test | TREC, MRPC | 10-fold cross-validation on train | 2^-1 … 2^5 |
| train, dev, test | SST2 | accuracy on dev | 2^-2 … 2^3 |

As there: stratified shuffled folds (seed 1111) over the examples sorted by length and label, no scaling of
the features, the smallest C among equals (accuracy to two decimals of a per cent), MRPC on |u − v| and u · v
with F1 beside accuracy. SentEval's scikit-learn variant is followed, with today's solver (L-BFGS, softmax
over the classes, intercept not regularised). Published tables mostly come from its PyTorch variant, which
trains the same model by Adam with early stopping over another grid: expect figures that differ by some tenths
of a point.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.model_selection import StratifiedKFold

from retromae.core.errors import UserError
from retromae.core.statistics import bootstrap_interval
from retromae.evaluation.transfer_data import Examples, Task
from retromae.evaluation.vectors import Encode, Vectors, encode_once

_SEED, _ITERATIONS = 1111, 1000
_GRID = [2.0**power for power in range(-2, 4)]
_TRAIN_TEST_GRID = [2.0**power for power in range(-1, 6)]

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class TransferResult:
    """Accuracies from 0 to 1; `low` and `high` bound a 95 % bootstrap interval over the tested examples.

    `dev` is the accuracy that C was chosen by. `f1` is given for pairs with the labels 0 and 1, of label 1.
    Without a test split every example is tested by the fold that left it out, and `accuracy` and `dev` are
    means over the folds.
    """

    task: str
    accuracy: float
    low: float
    high: float
    dev: float
    f1: float | None
    examples: int


def evaluate_transfer(task: Task, encode: Encode, *, folds: int = 10) -> TransferResult:
    """Run one task. Each split's distinct texts are encoded once; nothing of the encoder is trained."""
    with _one_warning(task.name):
        return _evaluate(task, encode, folds)


@contextmanager
def _one_warning(task: str) -> Iterator[None]:
    """The fits that ran out of iterations are told of once, together; other warnings at once, as ever."""
    unfinished = 0
    with warnings.catch_warnings():
        warnings.simplefilter("always", ConvergenceWarning)
        show = warnings.showwarning

        def count(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
            nonlocal unfinished
            if issubclass(category, ConvergenceWarning):
                unfinished += 1
            else:
                show(message, category, *place, **more)

        warnings.showwarning = count
        yield
    if unfinished:
        warnings.warn(
            f"{task}: {unfinished} logistic regressions stopped after {_ITERATIONS:,} iterations, short of their "
            "optimum, so the accuracy may be a little low; vectors as long as these slow them down.",
            stacklevel=4,
        )


def _evaluate(task: Task, encode: Encode, folds: int) -> TransferResult:
    names = sorted({label for part in (task.train, task.dev, task.test) if part for label in part.labels})
    x, y = _features(task.train, names, encode)
    if len(np.unique(y)) < 2:
        raise UserError(f"the training examples of {task.name} have one class only; there must be two.")
    if task.test is None:
        dev, accuracy, correct = _nested(x, y, _folds(folds, y, task.name))
        return _result(task.name, accuracy, dev, None, correct)
    if task.dev is None:
        c, dev = _choose(x, y, _folds(folds, y, task.name).split(x, y), _TRAIN_TEST_GRID)
    else:
        dev_x, dev_y = _features(task.dev, names, encode)
        split = np.arange(len(y)), np.arange(len(y), len(y) + len(dev_y))
        c, dev = _choose(np.vstack([x, dev_x]), np.concatenate([y, dev_y]), [split], _GRID)
    test_x, test_y = _features(task.test, names, encode)
    predicted = _classifier(c).fit(x, y).predict(test_x)
    of_pairs = task.test.second is not None and names == ["0", "1"]
    f1 = float(f1_score(test_y, predicted)) if of_pairs else None
    correct = predicted == test_y
    return _result(task.name, float(correct.mean()), dev, f1, correct)


def _result(
    task: str, accuracy: float, dev: float, f1: float | None, correct: npt.NDArray[np.bool_]
) -> TransferResult:
    low, high = bootstrap_interval(correct)
    return TransferResult(task, accuracy, low, high, dev, f1, len(correct))


def _features(part: Examples, names: Sequence[str], encode: Encode) -> tuple[Vectors, Integers]:
    """(examples, features) and their classes, in SentEval's order, which decides who falls into a fold."""
    count = len(part.labels)
    second = part.second or [""] * count
    order = sorted(
        range(count), key=lambda i: (len(part.first[i].split()), len(second[i].split()), part.labels[i])
    )
    y = np.array([names.index(part.labels[i]) for i in order], dtype=np.int64)
    first = [part.first[i] for i in order]
    if part.second is None:
        return encode_once(encode, first), y
    both = encode_once(encode, [*first, *(part.second[i] for i in order)])
    u, v = both[:count], both[count:]  # (examples, d) each
    return np.hstack([np.abs(u - v), u * v]), y


def _folds(folds: int, y: Integers, task: str) -> StratifiedKFold:
    scarcest = int(np.bincount(y)[np.unique(y)].min())
    if folds < 2 or scarcest < folds:
        raise UserError(
            f"{task}: the folds must be at least 2 and no more than the rarest class has examples "
            f"({scarcest}), got {folds}."
        )
    return StratifiedKFold(n_splits=folds, shuffle=True, random_state=_SEED)


def _nested(x: Vectors, y: Integers, folds: StratifiedKFold) -> tuple[float, float, npt.NDArray[np.bool_]]:
    """(mean dev accuracy, mean test accuracy, which examples were got right), C chosen inside each fold."""
    correct = np.zeros(len(y), dtype=np.bool_)
    dev, tested = [], []
    for train, test in folds.split(x, y):
        c, score = _choose(x[train], y[train], folds.split(x[train], y[train]), _GRID)
        correct[test] = _classifier(c).fit(x[train], y[train]).predict(x[test]) == y[test]
        dev.append(score)
        tested.append(correct[test].mean())
    return float(np.mean(dev)), float(np.mean(tested)), correct


def _choose(
    x: Vectors, y: Integers, splits: Iterable[tuple[Integers, Integers]], grid: Sequence[float]
) -> tuple[float, float]:
    """The C with the best mean accuracy over the splits, and that accuracy."""
    scores = []  # (splits, grid)
    for train, held_out in splits:
        # Along the grid each fit starts from the one before: the same optimum, in a third of the time.
        classifier = _classifier(grid[0]).set_params(warm_start=True)
        scores.append(
            [classifier.set_params(C=c).fit(x[train], y[train]).score(x[held_out], y[held_out]) for c in grid]
        )
    means = np.asarray(scores).mean(axis=0).round(4)
    best = int(means.argmax())
    return grid[best], float(means[best])


def _classifier(c: float) -> LogisticRegression:
    return LogisticRegression(C=c, max_iter=_ITERATIONS)
