"""The forecast against what really happens, and the arithmetic of time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from app.doctor.patients import SMALL, make_embedder, write_text
from retromae.app.doctor.base import BaseFacts, opened
from retromae.app.doctor.fit import PassageFacts, tokenised
from retromae.app.doctor.forecast import (
    MemoryForecast,
    activation_bytes,
    disk_bytes,
    forecast,
    training_bytes,
)
from retromae.app.doctor.machine import look, missing
from retromae.app.doctor.measure import (
    EncodingSpeed,
    TrainingSpeed,
    contrastive_speed,
    encoding_speed,
    reconstruction_speed,
)
from retromae.app.doctor.words import counted, size
from retromae.core.words import roughly
from retromae.text.corpus_facts import survey

BASE = BaseFacts("embedder", "", "x", 30522, 22_700_000, 6, 12, True, 384, 1536, 384, 256, "mean", "cosine")
PASSAGES = PassageFacts(128, 3200, 100.0, 0.5, 0.5)
MEMORY = MemoryForecast(2 << 30, 1 << 30, 8 << 30)


@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert"])
def test_activations_are_of_the_right_size(tiny_folder: Callable[[str], Path], family: str) -> None:
    """Against the bytes that autograd really keeps, within a third (tiny layers have odd proportions)."""
    with opened(str(tiny_folder(family)), [], SMALL) as base:
        model = base.encoder.model.train()
        model.requires_grad_(True)
        weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        kept: dict[int, int] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        ids = torch.randint(10, 90, (8, 60))
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            out = model({"input_ids": ids, "attention_mask": torch.ones_like(ids)})["sentence_embedding"]
        assert out.requires_grad
        ratio = activation_bytes(base.facts, ids.numel(), 60, fused=False) / sum(kept.values())
    assert 0.7 < ratio < 1.4


def test_memory_grows_with_what_costs() -> None:
    plain = training_bytes(BASE, 4096, 128, fused=False, reconstruction=False)
    more = training_bytes(BASE, 8192, 128, fused=False, reconstruction=False)
    assert more - plain == activation_bytes(BASE, 4096, 128, fused=False)
    assert training_bytes(BASE, 4096, 128, fused=True, reconstruction=False) < plain
    assert training_bytes(BASE, 4096, 128, fused=False, reconstruction=True) > plain > 16 * BASE.parameters
    assert disk_bytes(BASE, 10, 0) < disk_bytes(BASE, 1000, 0) < disk_bytes(BASE, 1000, 10**6)


@pytest.mark.parametrize(
    ("minutes", "share"), [(None, None), (1.0, 0.0), (2 * 32 / 60, 0.0), (10.0, (600 - 64) / 150)]
)
def test_time_is_counted_together(minutes: float | None, share: float | None) -> None:
    settings = replace(SMALL, per_device_train_batch_size=32)
    training = [TrainingSpeed("a", 0.0005, 0.1, 50, 5), TrainingSpeed("b", 0.0001, 0.08, 100, 5)]
    found = forecast(BASE, PASSAGES, MEMORY, 10**6, settings, EncodingSpeed(0.01, 9), training, minutes)
    assert [stage.step_seconds for stage in found.stages] == pytest.approx([0.9, 0.4])
    assert [stage.pass_seconds for stage in found.stages] == pytest.approx([90, 40])
    assert found.encoding_seconds == pytest.approx(32)
    assert found.seconds == pytest.approx(64 + 130)
    expected = None if share is None else share * 150 / 130
    assert found.training_share == (None if expected is None else pytest.approx(expected))


def test_without_measurements_there_is_no_time() -> None:
    found = forecast(BASE, PASSAGES, MEMORY, 10**6, SMALL, None, [], 5.0)
    assert (found.encoding, found.stages, found.training_share) == (None, [], None)


def test_real_steps(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    found = survey([str(write_text(tmp_path / "a.jsonl"))])
    folder = make_embedder(tiny_folder("bert"), tmp_path / "base")
    with opened(str(folder), found.excerpts, SMALL) as base:
        samples = tokenised(found, base.tokenizer, 30).samples
        encoded = encoding_speed(base, samples, 0.1)
        assert encoded.batches >= 1 and 0 < encoded.seconds_per_passage < 1
        trained = contrastive_speed(base, samples, SMALL, 0.1)
        rebuilt = reconstruction_speed(base, samples, SMALL, 0.1)
    mean = sum(len(sample.ids) for sample in samples) / len(samples)
    assert rebuilt.tokens_per_passage == pytest.approx(mean + 2, rel=0.25)
    assert mean + 5 < trained.tokens_per_passage < mean + 40  # its query, and special tokens around both
    for speed in (trained, rebuilt):
        assert speed.steps >= 1 and 0 < speed.optimiser_seconds < 1
        assert 0 < speed.step_seconds(4) < speed.step_seconds(8) < 10
    assert trained.stage != rebuilt.stage


def test_the_machine(tmp_path: Path) -> None:
    machine = look(tmp_path / "not" / "yet", [("dev", "tests"), ("no such extra", "nothing")])
    assert machine.cores >= 1 and 0 < machine.free_memory <= machine.memory
    assert machine.free_disk > 0 and machine.output.endswith("yet") and not (tmp_path / "not").exists()
    assert not any(found.needed_for == "nothing" for found in machine.missing)


def test_missing_packages_come_with_their_command(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import metadata

    monkeypatch.setattr(
        metadata,
        "requires",
        lambda _: ["numpy>=2", "surely-not-there>=1; extra == 'serve'", "rich; extra == 'serve'"],
    )
    found = missing("serve", "the workbench")
    assert found is not None and found.packages == ["surely-not-there"]
    assert found.command == "pip install 'retromae[serve]'"
    assert missing("html", "pages") is None


def test_numbers_for_people() -> None:
    assert [size(n) for n in (12, 8_400, 2_140_000, 976_000_000, 4_210_000_000, 74e9, 999_700)] == [
        *("12 bytes", "8 KB", "2 MB", "976 MB", "4.2 GB", "74.0 GB", "1 MB"),
    ]
    assert [roughly(s) for s in (0.84, 9.96, 42.4, 360, 12_600, 181_440)] == [
        *("0.8 s", "10 s", "42 s", "6 min", "3.5 h", "2.1 days"),
    ]
    assert [counted(n, "file") for n in (0, 1, 1200)] == ["0 files", "1 file", "1,200 files"]
