"""The picture of the decoder's mask: the matrix is the one of training, and the drawing shows it."""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex, to_rgb

from retromae.app.figures import (
    HIDDEN,
    ITSELF,
    MOST_TOKENS,
    SEEN,
    SENTENCE,
    colours,
    draw_visible,
    mask_maker,
    visible_matrix,
)
from retromae.core.errors import UserError
from retromae.objectives import Batch
from retromae.objectives.retromae import RetroMAEConfig
from tiny import SENTENCES, tiny_tokenizer


def test_the_matrix_is_the_one_of_training() -> None:
    tokenizer = tiny_tokenizer()
    objective = mask_maker(tokenizer, seed=7)
    matrix = visible_matrix(objective, tokenizer, "Bees find salt.", row=5, epoch=2)
    ids = tokenizer("Bees find salt.")["input_ids"]
    # the same row in the middle of a padded batch
    token_ids = torch.full((3, len(ids) + 4), tokenizer.pad_token_id)
    token_ids[1, : len(ids)] = torch.tensor(ids)
    mask = (token_ids != tokenizer.pad_token_id).long()
    batch = Batch(token_ids, mask, torch.tensor([3, 5, 9]), torch.tensor([2, 2, 2]))
    visible = objective.visible(batch)[1, : len(ids), : len(ids)].numpy()
    assert np.array_equal(matrix.cells, visible)
    assert matrix.tokens == tokenizer.convert_ids_to_tokens(ids)
    assert matrix.rebuilt.tolist() == [False, *[True] * (len(ids) - 2), False]


def test_equation_7() -> None:
    tokenizer = tiny_tokenizer()
    for share in (0.0, 0.5, 1.0):
        objective = mask_maker(tokenizer, RetroMAEConfig(decoder_mlm_probability=share))
        cells = visible_matrix(objective, tokenizer, SENTENCES[2]).cells
        assert not cells.diagonal().any()
        assert cells[1:, 0].all()
        others = cells[:, 1:][~np.eye(len(cells), dtype=bool)[:, 1:]]
        assert others.mean() == pytest.approx(1.0 - share, abs=0.12 if share == 0.5 else 0.0)


def test_the_schedule_starts_with_the_sentence_vector_alone() -> None:
    tokenizer = tiny_tokenizer()
    objective = mask_maker(tokenizer, RetroMAEConfig(hide_schedule=0.5))
    first = visible_matrix(objective, tokenizer, SENTENCES[0], progress=0.0)
    assert first.hidden_share == 1.0
    assert not first.cells[:, 1:].any()
    assert visible_matrix(objective, tokenizer, SENTENCES[0]).hidden_share == 0.5


def test_cells_have_the_colour_of_what_they_mean(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    matrix = visible_matrix(mask_maker(tokenizer), tokenizer, "Salt keeps fish.")
    found = np.vectorize(lambda *rgb: to_hex(rgb))(*np.moveaxis(colours(matrix), 2, 0))
    assert set(found.diagonal()) == {ITSELF}
    assert set(found[1:, 0]) == {SENTENCE}
    assert set(found[:, 1:][matrix.cells[:, 1:]]) == {SEEN}
    hidden = ~matrix.cells & ~np.eye(len(found), dtype=bool)
    assert hidden.any() and set(found[hidden]) == {HIDDEN}
    draw_visible(matrix, [tmp_path / "a.png"])
    pixels = matplotlib.image.imread(tmp_path / "a.png")[..., :3].reshape(-1, 3)
    for colour in (ITSELF, SENTENCE, SEEN, HIDDEN):
        assert (np.abs(pixels - to_rgb(colour)).max(axis=1) < 0.01).mean() > 0.01, colour


def test_the_same_matrix_gives_the_same_bytes_and_every_token_is_written(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    matrix = visible_matrix(mask_maker(tokenizer), tokenizer, "Salt keeps fish.")
    for name in ("one", "two"):
        draw_visible(matrix, [tmp_path / f"{name}.svg", tmp_path / f"{name}.png"])
    for ending in ("svg", "png"):
        assert (tmp_path / f"one.{ending}").read_bytes() == (tmp_path / f"two.{ending}").read_bytes()
    written = re.findall(r"<!-- (.*?) -->", (tmp_path / "one.svg").read_text())
    for token in matrix.tokens:
        assert written.count(token) >= 2  # on both axes


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    objective = mask_maker(tokenizer)
    with pytest.raises(UserError, match=f"{MOST_TOKENS} can be drawn"):
        visible_matrix(objective, tokenizer, " ".join(SENTENCES[:4]))
    basic = mask_maker(tokenizer, RetroMAEConfig(decoder="basic"))
    with pytest.raises(UserError, match="enhanced"):
        visible_matrix(basic, tokenizer, "Salt.")
    with pytest.raises(UserError, match="must end in"):
        draw_visible(visible_matrix(objective, tokenizer, "Salt."), [tmp_path / "mask.jpg"])
    assert not list(tmp_path.iterdir())
