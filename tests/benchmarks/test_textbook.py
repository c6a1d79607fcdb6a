"""The baseline of the timings computes what the paper says, and the helpers measure what they claim."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import common
from benchmarks.textbook import (
    IGNORED,
    SpecialIds,
    TextbookCollator,
    TextbookRetroMAE,
    random_batches,
    textbook_collator,
    textbook_optimizer,
    textbook_step,
)

VOCAB = 128
STARTS = common.word_starts(VOCAB).tolist()
SPECIAL = SpecialIds()


def tiny_config(heads: int = 4) -> BertConfig:
    return BertConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=heads,
        intermediate_size=64,
        max_position_embeddings=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )


def tiny_rows(lengths: list[int], seed: int = 0) -> list[list[int]]:
    return common.random_rows(lengths, VOCAB, seed)


# --- collator --------------------------------------------------------------------------------------------


def test_collator_pads_to_the_longest_row_and_keeps_specials_out_of_the_labels() -> None:
    rows = tiny_rows([9, 20, 5])
    batch = textbook_collator(rows, STARTS, seed=1)
    assert batch["decoder_visible"].shape == (3, 20, 20)
    for name in ("input_ids", "attention_mask", "labels", "decoder_input_ids", "decoder_labels"):
        assert batch[name].shape == (3, 20), name
    assert batch["attention_mask"].sum(dim=1).tolist() == [9, 20, 5]
    for index, row in enumerate(rows):
        end = len(row) + 1
        assert batch["decoder_input_ids"][index, : end + 1].tolist() == [SPECIAL.cls, *row, SPECIAL.sep]
        assert batch["decoder_input_ids"][index, end + 1 :].eq(SPECIAL.pad).all()
        assert batch["decoder_labels"][index, 1:end].tolist() == row
        for labels in (batch["labels"], batch["decoder_labels"]):
            assert labels[index, 0] == IGNORED
            assert labels[index, end:].eq(IGNORED).all()
    assert textbook_collator([list(range(5, 100))], STARTS, max_length=32)["input_ids"].shape == (1, 32)


def test_collator_masks_the_asked_shares_as_80_10_10() -> None:
    vocab = 5000  # large, so that a random replacement is hardly ever the original
    rows = common.random_rows([200] * 40, vocab, seed=3)
    batch = TextbookCollator(common.word_starts(vocab).tolist(), seed=3)(rows)
    masked = batch["labels"] != IGNORED
    assert masked[:, 1:-1].float().mean().item() == pytest.approx(0.30, abs=0.005)
    shown = batch["input_ids"][masked]
    is_mask = shown == SPECIAL.mask
    is_same = shown == batch["labels"][masked]
    assert is_mask.float().mean().item() == pytest.approx(0.8, abs=0.03)
    assert is_same.float().mean().item() == pytest.approx(0.1, abs=0.02)
    assert torch.equal(batch["input_ids"][~masked], batch["decoder_input_ids"][~masked])
    visible = batch["decoder_visible"][:, 1:-1, 1:-1].float()  # ordinary rows and positions
    off_diagonal = ~torch.eye(198, dtype=torch.bool)
    assert 1 - visible[:, off_diagonal].mean().item() == pytest.approx(0.50, abs=0.005)


def test_decoder_rows_never_see_themselves_and_always_see_the_first_position() -> None:
    lengths = [12, 30, 4]
    visible = textbook_collator(tiny_rows(lengths), STARTS, seed=5)["decoder_visible"]
    for matrix, length in zip(visible, lengths, strict=True):
        assert matrix.diagonal().eq(0).all()
        assert matrix[1:length, 0].eq(1).all()
        assert matrix[length:].eq(0).all()
        assert matrix[:, length:].eq(0).all()


def test_words_are_masked_whole_and_rows_share_at_most_so_many_sets() -> None:
    row = tiny_rows([60], seed=7)[0]
    collator = TextbookCollator(STARTS, mask_sets=3, seed=7)
    ids = [SPECIAL.cls, *row, SPECIAL.sep]
    for _ in range(50):
        mask = collator.whole_word_mask(ids, 0.3)
        for position in range(2, len(ids) - 1):
            if not STARTS[ids[position]]:
                assert mask[position] == mask[position - 1]
    assert _different_sets(collator.hidden_matrix(ids)) == 3
    assert _different_sets(TextbookCollator(STARTS, seed=7).hidden_matrix(ids)) > 3


def _different_sets(hidden: list[list[int]]) -> int:
    """How many sets the rows came from: two rows share one if they differ only at themselves."""
    found: list[int] = []
    for i, row in enumerate(hidden):
        others = [[k for k in range(len(row)) if k not in (i, j)] for j in found]
        if not any(all(row[k] == hidden[j][k] for k in ks) for j, ks in zip(found, others, strict=True)):
            found.append(i)
    return len(found)


def test_same_seed_same_batch_and_another_seed_another() -> None:
    rows = tiny_rows([20, 30])
    first, again, other = (textbook_collator(rows, STARTS, seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["decoder_visible"], other["decoder_visible"])
    batches = list(random_batches(rows * 5, 4, seed=0))
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert sorted(row for batch in batches for row in batch) == sorted(rows * 5)


# --- model -----------------------------------------------------------------------------------------------


def test_decoder_equals_attention_over_the_visible_positions_only() -> None:
    torch.manual_seed(0)
    model = TextbookRetroMAE(tiny_config(heads=1)).eval()
    batch = textbook_collator(tiny_rows([14]), STARTS, seed=2)
    ids, visible = batch["decoder_input_ids"], batch["decoder_visible"]
    cls = torch.randn(1, 1, 32)
    with torch.no_grad():
        decoded = model.decode(cls, ids, visible)
        embeddings, layer = model.encoder.bert.embeddings, model.decoder
        positions = embeddings.position_embeddings.weight[:14]
        context = embeddings.word_embeddings(ids[0]) + positions
        context[0] = cls[0, 0]
        for i in range(14):
            seen = context[visible[0, i].bool()]
            query = cls[0, 0] + positions[i]
            weights = (layer.key(seen) @ layer.query(query) / 32**0.5).softmax(dim=0)
            attended = layer.attention_norm(query + layer.attention_output(weights @ layer.value(seen)))
            widened = torch.nn.functional.gelu(layer.intermediate(attended))
            expected = layer.output_norm(attended + layer.output(widened))
            torch.testing.assert_close(decoded[0, i], expected, rtol=1e-5, atol=1e-5)


def test_loss_falls_when_a_batch_is_learnt_by_heart() -> None:
    torch.manual_seed(0)
    model = TextbookRetroMAE(tiny_config()).train()
    batch = textbook_collator(tiny_rows([10, 16, 24, 7]), STARTS)
    optimizer = textbook_optimizer(model, learning_rate=3e-3)
    losses = [textbook_step(model, batch, optimizer).item() for _ in range(40)]
    assert np.isfinite(losses).all()
    assert losses[0] == pytest.approx(2 * np.log(VOCAB), rel=0.1)
    assert losses[-1] < 0.5 * losses[0]
    parts = model(batch)
    assert parts["loss"].item() == pytest.approx((parts["encoder_loss"] + parts["decoder_loss"]).item())


# --- operations ------------------------------------------------------------------------------------------


def test_operation_count_agrees_with_torchs_own_counter_on_what_the_textbook_executes() -> None:
    """Both count padding and full logits here (`textbook=True`): torch sees every product that runs."""
    lengths = [12, 40, 25]
    config = tiny_config()
    model = TextbookRetroMAE(config)
    batch = textbook_collator(tiny_rows(lengths), STARTS)
    with FlopCounterMode(display=False) as counter:
        model(batch)["loss"].backward()
    counted = common.flops_per_step(config, lengths, textbook=True)
    assert counted.total == pytest.approx(counter.get_total_flops(), rel=0.10)
    assert not [
        op for op in counter.get_flop_counts()["Global"] if "attention" in str(op)
    ]  # eager, not fused


def test_needed_operations_leave_out_padding_and_unneeded_logits() -> None:
    config = tiny_config()
    needed = common.flops_per_step(config, [12, 40], encoder_share=0.3)
    executed = common.flops_per_step(config, [12, 40], textbook=True)
    assert needed.encoder_head / executed.encoder_head == pytest.approx(0.3 * (10 + 38) / 80)
    assert needed.decoder_head / executed.decoder_head == pytest.approx((10 + 38) / 78)
    assert needed.encoder_layers / executed.encoder_layers == pytest.approx(52 / 80)
    assert needed.encoder_attention / executed.encoder_attention == pytest.approx(
        (12**2 + 40**2) / (2 * 40**2)
    )
    assert needed.decoder_attention / executed.decoder_attention == pytest.approx(
        (12 * 10 + 40 * 38) / (2 * 40**2)
    )


# --- helpers ---------------------------------------------------------------------------------------------


def test_lengths_and_rows_have_the_promised_shape() -> None:
    lengths = common.msmarco_like(20_000, seed=4)
    assert lengths.mean() == pytest.approx(78, abs=1)
    assert (lengths.min(), lengths.max()) == (16, 150)
    spread = common.mixed(20_000, seed=4)
    assert (spread.min(), spread.max()) == (16, 512)
    assert spread.mean() == pytest.approx(264, abs=4)
    assert common.blocks(3).tolist() == [512, 512, 512]
    rows = common.random_rows([10, 30, 2], 500, seed=1)
    assert [len(row) for row in rows] == [8, 28, 0]
    ids = np.concatenate(common.random_rows(lengths[:500], 500, seed=1))
    counts = np.bincount(ids, minlength=500)
    assert ids.min() == common.ORDINARY
    assert ids.max() < 500
    assert counts[5] > 3 * counts[20] > 3 * counts[400]


def test_sides_are_timed_in_turn() -> None:
    calls: list[str] = []
    timings = common.alternate({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 3, warmup=1)
    assert calls == ["a", "b", "b", "a", "a", "b", "b", "a"]
    assert {name: len(timing.seconds) for name, timing in timings.items()} == {"a": 3, "b": 3}
    timing = timings["a"]
    assert timing.low <= timing.median <= timing.high
    assert timing.spread == pytest.approx((timing.high - timing.low) / timing.median)


def test_peak_memory_is_that_of_the_call() -> None:
    megabytes = 200
    memory = common.peak_memory_cpu(torch.ones, megabytes * 2**20 // 4)
    assert memory.added == pytest.approx(megabytes * 2**20, rel=0.1)


def test_a_measured_process_that_dies_is_named() -> None:
    with pytest.raises(RuntimeError, match=r"_exit ended with exit code 3"):
        common.peak_memory_cpu(os._exit, 3)


def test_results_are_written_with_what_reproduces_them(tmp_path: Path) -> None:
    path = tmp_path / "out" / "speed.json"
    timing = common.median_of(lambda: None, repeats=2)
    common.write_json(
        path, {"timing": timing, "lengths": common.blocks(2), "ratio": np.float64(2.5)}, seed=11
    )
    written = json.loads(path.read_text(encoding="utf-8"))
    assert written["seed"] == 11
    assert written["command"].startswith("python ")
    assert written["machine"]["torch"] == torch.__version__
    assert written["results"]["timing"]["median"] == timing.median
    assert written["results"]["lengths"] == [512, 512]
    assert written["results"]["ratio"] == 2.5
