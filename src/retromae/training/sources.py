"""Where a run's negatives and its teacher's scores come from."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from sentence_transformers import CrossEncoder

from retromae.core.errors import UserError
from retromae.text.candidates import Candidates
from retromae.text.pairs import Pairs
from retromae.training.cross_encoder import is_cross_encoder, open_cross_encoder
from retromae.training.finetune_settings import FinetuneConfig
from retromae.training.groups import Groups, Scores
from retromae.training.plan import Numbers
from retromae.training.scores import score_pairs, scores_folder
from retromae.training.teacher_groups import Groups as TeacherGroups

_BATCHES = 4096  # whose pairs are gathered at a time
WITH_PAIRS = "pairs"  # as `teacher`: the scores that the data brings along


def given_negatives(config: FinetuneConfig, pairs: Pairs) -> Candidates | None:
    """Mined negatives, else those that the pairs came with, else None."""
    if config.negatives:
        return Candidates.open(config.negatives, pairs)
    return Candidates.given(pairs) if config.group_size > 1 or config.teacher else None


def with_negatives(config: FinetuneConfig, pairs: Pairs, negatives: Candidates) -> NDArray[np.int64]:
    """The queries that have a candidate which is none of their answers: the others teach a student nothing."""
    window, size = config.negatives_window, config.group_size
    return TeacherGroups(pairs, negatives, size, window, config.seed).trainable()


def open_teacher(teacher: str) -> CrossEncoder:
    """A cross-encoder that has been trained: of a plain encoder the head, and every score, would be random."""
    if not is_cross_encoder(teacher):
        raise UserError(f"'{teacher}' is no cross-encoder; train one with `retromae teach` first.")
    return open_cross_encoder(teacher)


def teacher_scores(
    config: FinetuneConfig,
    pairs: Pairs,
    negatives: Candidates,
    groups: Groups,
    batches: int,
    *,
    console: Console | None,
) -> Scores:
    """What the teacher says of a batch's groups. It scores what `groups` draws for so many batches, and no more,
    as far as it has not done so before."""
    assert config.teacher
    if config.teacher == WITH_PAIRS:
        if pairs.positive_scores is None or pairs.negative_scores is None or config.negatives:
            raise UserError(
                f"'{config.pairs}' brings no scores for its positives and these negatives; name a teacher's run."
            )
        missing = sum(int(np.isnan(part).sum()) for part in (pairs.positive_scores, pairs.negative_scores))
        if missing:
            raise UserError(
                f"'{config.pairs}' lacks {missing:,} of the scores of its passages; give every one a score, or name a "
                "teacher's run."
            )
        return Known(
            len(pairs.passages),
            [
                (lists.owners.astype(np.int64), lists.members, scores)
                for lists, scores in (
                    (pairs.positives, pairs.positive_scores),
                    (negatives.lists, pairs.negative_scores),
                )
            ],
        )
    teacher = open_teacher(config.teacher)
    folder = scores_folder(config.teacher)
    queries, passages = drawn(groups, batches)
    found = score_pairs(
        teacher, pairs, queries, passages, folder, bf16=config.bf16, progress=console is not None
    )
    return Known(len(pairs.passages), [(queries, passages, found)])


def drawn(groups: Groups, batches: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Every (query, passage) of the first `batches` batches once, sorted."""
    width = np.int64(len(groups.pairs.passages))
    seen = np.empty(0, dtype=np.int64)
    for start in range(0, batches, _BATCHES):
        keys = []
        for number in range(start, min(start + _BATCHES, batches)):
            chosen, passages = groups.batch(number)
            keys.append((chosen.queries[:, None] * width + passages).ravel())
        seen = np.unique(np.concatenate([seen, *keys]))
    return seen // width, seen % width


class Known:
    """Scores by (query, passage): 12 bytes each, found by binary search."""

    def __init__(
        self, passages: int, parts: list[tuple[NDArray[np.int64], NDArray[Any], NDArray[np.float32]]]
    ) -> None:
        """`parts`: queries, passages and scores, all (n,)."""
        self.passages = passages
        keys = np.concatenate([queries * passages + members for queries, members, _ in parts])
        scores = np.concatenate([values for *_, values in parts])
        order = np.argsort(keys, kind="stable")
        self.keys, self.scores = keys[order], scores[order]

    def __call__(self, queries: Numbers, passages: Numbers) -> NDArray[np.float32]:
        """(B,) and (B, G) → (B, G)"""
        wanted = queries[:, None].astype(np.int64) * self.passages + passages
        places = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        if not (self.keys[places] == wanted).all():
            raise UserError("the teacher has not scored all passages of a group; score the negatives again.")
        return self.scores[places]
