"""Pictures of what the code does, drawn from the code itself.

`visible_matrix` asks an objective for the real mask of a real sentence (RetroMAE, Eq. 7); `draw_visible` makes the
picture of it that stands in docs/enhanced-decoding.md. docs/make.py puts the two together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from retromae.app.pictures import BLUE, GREY, INK, PALE, checked, drawing, save
from retromae.core.errors import UserError
from retromae.models.backbone import Backbone
from retromae.objectives import Batch, Vocabulary
from retromae.objectives.retromae import RetroMAE, RetroMAEConfig

MOST_TOKENS = 40  # more rows than this nobody can read

HIDDEN, SEEN, SENTENCE, ITSELF = "#edf0f4", "#7fb2e5", BLUE, GREY


@dataclass(frozen=True)
class VisibleMatrix:
    """What each row of the decoder sees of one sentence."""

    tokens: list[str]  # L, special tokens included
    cells: NDArray[np.bool_]  # (L, L): row i sees position j
    rebuilt: NDArray[np.bool_]  # (L,): row i has a label, which special tokens have not
    hidden_share: float


def mask_maker(
    tokenizer: PreTrainedTokenizerBase, settings: RetroMAEConfig | None = None, seed: int = 42
) -> RetroMAE:
    """A RetroMAE objective that is good for drawing masks: they depend on no weight, so the model is tiny."""
    backbone = Backbone.from_scratch(
        1, 8, 1, 8, len(tokenizer), MOST_TOKENS, 0.0, pad_token_id=tokenizer.pad_token_id
    )
    return RetroMAE(backbone, settings or RetroMAEConfig(), Vocabulary.of(tokenizer, backbone), seed)


def visible_matrix(
    objective: RetroMAE,
    tokenizer: PreTrainedTokenizerBase,
    sentence: str,
    *,
    row: int = 0,
    epoch: int = 0,
    progress: float = 1.0,
) -> VisibleMatrix:
    """The mask that training would use for `sentence` as this row of the data, in this epoch."""
    if not objective.enhanced:
        raise UserError("only enhanced decoding has a visible matrix of its own; set decoder: enhanced.")
    token_ids = torch.tensor([tokenizer(sentence)["input_ids"]])  # (1, L)
    length = token_ids.shape[1]
    if length > MOST_TOKENS:
        raise UserError(f"The sentence has {length} tokens; {MOST_TOKENS} can be drawn: give a shorter one.")
    batch = Batch(token_ids, torch.ones_like(token_ids), torch.tensor([row]), torch.tensor([epoch]), progress)
    return VisibleMatrix(
        list(tokenizer.convert_ids_to_tokens(token_ids[0].tolist())),
        objective.visible(batch)[0].numpy(),
        objective.is_ordinary(batch)[0].numpy(),
        objective.hidden_share(progress),
    )


def draw_visible(matrix: VisibleMatrix, paths: Sequence[str | Path]) -> None:
    """Draw the matrix, once into every path (.svg, .png or .pdf); the same matrix gives the same bytes."""
    targets = checked(paths)
    with drawing() as pyplot:
        figure = _figure(pyplot, matrix)
        save(figure, targets)
        pyplot.close(figure)


def _figure(pyplot: Any, matrix: VisibleMatrix) -> Any:
    length = len(matrix.tokens)
    side = max(4.0, 0.36 * length)
    figure, axes = pyplot.subplots(figsize=(side + 1.9, side + 2.1), layout="constrained")
    axes.imshow(colours(matrix), interpolation="nearest")
    places = np.arange(length)
    axes.set_xticks(places, matrix.tokens, rotation=90, fontsize=10)
    axes.set_yticks(places, matrix.tokens, fontsize=10)
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    axes.set_xlabel("what can be seen (keys and values)", fontsize=10, color=PALE, labelpad=8)
    axes.set_ylabel("the token that is rebuilt (queries)", fontsize=10, color=PALE, labelpad=8)
    for labels, dim in ((axes.get_xticklabels(), []), (axes.get_yticklabels(), ~matrix.rebuilt)):
        for label in labels:
            label.set_color(INK)
        for place in np.flatnonzero(dim):
            labels[place].set_color(PALE)
    axes.set_xticks(places[1:] - 0.5, minor=True)
    axes.set_yticks(places[1:] - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    _legend(pyplot, axes, matrix)
    return figure


def colours(matrix: VisibleMatrix) -> NDArray[np.float64]:
    """(L, L, 3): the colour of every cell."""
    from matplotlib.colors import to_rgb

    length = len(matrix.tokens)
    picture = np.empty((length, length, 3))
    picture[:] = to_rgb(HIDDEN)
    picture[matrix.cells] = to_rgb(SEEN)
    picture[matrix.cells[:, 0], 0] = to_rgb(SENTENCE)
    np.einsum("iic->ic", picture)[:] = to_rgb(ITSELF)  # the diagonal
    return picture


def _legend(pyplot: Any, axes: Any, matrix: VisibleMatrix) -> None:
    from matplotlib.patches import Patch

    entries = [
        (SENTENCE, "the sentence vector: seen by every row but its own"),
        (SEEN, "another token, drawn for this row alone"),
        (HIDDEN, f"hidden from this row (each with probability {matrix.hidden_share:.0%})"),
        (ITSELF, "the token itself: never seen"),
    ]
    axes.legend(
        handles=[Patch(facecolor=colour, edgecolor="#d0d4d9", label=text) for colour, text in entries],
        loc="upper center",
        bbox_to_anchor=(0.5, -0.02),
        ncols=1,
        frameon=False,
        fontsize=10,
    )
