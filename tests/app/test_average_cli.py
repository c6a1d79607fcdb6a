"""retromae average as people type it: one average, and the curve between two models."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib.image
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer

from app.command_line import CommandLine, write_set
from retromae.app.average import measure_curve
from retromae.app.curve_settings import CurveConfig, parse_weights, planned_sets
from retromae.core.errors import UserError
from retromae.evaluation.metrics import Result
from retromae.evaluation.significance import compare
from retromae.models.averaging import read_recipe
from retromae.models.importing import import_checkpoint
from tiny import SENTENCES

Folder = Callable[[str], Path]
SETS = ("near", "far", "farther")


@pytest.fixture
def retromae(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(monkeypatch, capsys)


@pytest.fixture(scope="module")
def models(tiny_folder: Folder, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model and another one that lies a little way off."""
    base, tuned = (tmp_path_factory.mktemp("runs") / name / "model" for name in ("base", "dpr"))
    import_checkpoint(tiny_folder("bert"), base)
    shutil.copytree(base, tuned)
    generator = torch.Generator().manual_seed(3)
    tensors = load_file(tuned / "model.safetensors")
    moved = {name: t + 0.2 * torch.randn(t.shape, generator=generator) for name, t in tensors.items()}
    save_file(moved, tuned / "model.safetensors", metadata={"format": "pt"})
    return base, tuned


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three sets; `farther` has no dev split."""
    folder = tmp_path_factory.mktemp("data")
    write_set(folder / "near", split="dev")
    write_set(folder / "far", documents=18, split="dev")
    write_set(folder / "farther", documents=12)
    shutil.copy(folder / "far" / "qrels" / "dev.tsv", folder / "far" / "qrels" / "test.tsv")
    return folder


@pytest.fixture(scope="module")
def measured(models: tuple[Path, Path], sets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A curve with its models, measured once."""
    out = tmp_path_factory.mktemp("measured") / "curve"
    config = CurveConfig(
        in_domain=[str(sets / "near")],
        out_of_domain=[str(sets / "far"), str(sets / "farther")],
        weights=["0,0.5"],
        keep="all",
        output_dir=str(out),
    )
    measure_curve((str(models[0]), str(models[1])), config)
    return out


@pytest.fixture
def out(measured: Path, tmp_path: Path) -> Path:
    """A copy of that curve: going on with it costs nothing."""
    return Path(shutil.copytree(measured, tmp_path / "curve"))


def words(models: Sequence[Path], sets: Path, out: Path) -> list[object]:
    axes = [
        "--in_domain",
        sets / "near",
        "--out_of_domain",
        sets / "far",
        "--out-of-domain",
        sets / "farther",
    ]
    return ["average", *models, *axes, "--output_dir", out, "--weights", "0,0.5"]


def times(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in sorted(folder.rglob("*.json"))}


def test_one_average(retromae: CommandLine, models: tuple[Path, Path], tmp_path: Path) -> None:
    told = retromae.well("average", *models, "--weight", 0.25, "--out", tmp_path / "mixed")
    assert told.strip() == f"0.75 × {models[0]} + 0.25 × {models[1]}: {tmp_path / 'mixed'}"
    recipe = read_recipe(tmp_path / "mixed")
    assert recipe is not None and [source.weight for source in recipe.sources] == [0.75, 0.25]
    assert SentenceTransformer(str(tmp_path / "mixed"), device="cpu").encode(SENTENCES[:2]).shape == (2, 32)
    retromae.well("average", *models, models[0], "--out", tmp_path / "three")
    recipe = read_recipe(tmp_path / "three")
    assert recipe is not None and [source.weight for source in recipe.sources] == [1 / 3] * 3
    parts = [word for share in (0.5, 0.2, 0.3) for word in ("--weight", share)]
    retromae.well("average", *models, models[0], *parts, "--out", tmp_path / "three")
    recipe = read_recipe(tmp_path / "three")
    assert recipe is not None and [source.weight for source in recipe.sources] == [0.5, 0.2, 0.3]


def test_the_curve(retromae: CommandLine, models: tuple[Path, Path], sets: Path, out: Path) -> None:
    done = retromae(*words(models, sets, out), "--keep", "all")
    assert done.code == 0, done
    assert "Measured on near dev, far dev, farther test." in done.out
    assert "farther was measured on its test split" in done.err and "far was" not in done.err
    assert "What weight 1 was trained on is not recorded" in done.err
    facts = json.loads((out / "results.json").read_text())
    assert [point["weight"] for point in facts["points"]] == [0, 0.5, 1]  # 1 always takes part
    splits = {name: facts["sets"][name]["split"] for name in SETS}
    assert splits == {"near": "dev", "far": "dev", "farther": "test"}
    assert {one["role"] for one in facts["sets"].values()} == {"in_domain", "out_of_domain"}

    # every point is what `evaluate` says of its model, the two models themselves included
    for point, model in zip(facts["points"], (models[0], out / "models" / "0.5", models[1]), strict=True):
        cells = {}
        for split in ("dev", "test"):
            given = [word for name in SETS if splits[name] == split for word in ("--beir", sets / name)]
            told = retromae.well(
                *("evaluate", f"m={model}", *given, "--split", split, "--form", "json"),
                *("--metrics", "nDCG@10", "--no-leakage"),
            )
            cells |= json.loads(told)["tables"][0]["cells"]["m"]
        figures = {name: cells[name] for name in SETS}
        assert point["sets"] == {name: figures[name]["mean"] for name in SETS}
        assert point["in_domain"]["mean"] == pytest.approx(figures["near"]["mean"])
        assert point["in_domain"]["low"] == figures["near"]["low"]
        outside = (figures["far"]["mean"] + figures["farther"]["mean"]) / 2
        assert point["out_of_domain"]["mean"] == pytest.approx(outside)
        assert point["out_of_domain"]["low"] <= outside <= point["out_of_domain"]["high"]
    assert len({point["in_domain"]["mean"] for point in facts["points"]}) > 1

    # tests are those of the evaluation room, against weight 1
    near = [Result.load(out / "points" / weight / "near" / "0.json") for weight in ("0", "0.5", "1")]
    named = [Result(name, one.metrics, one.per_query, []) for name, one in zip(("0", "0.5", "1"), near)]
    expected = [pair.p for pair in compare(named, "nDCG@10", baseline="1")]
    assert [pair["p"] for pair in facts["comparisons"]["in_domain"]] == expected
    best = max(
        facts["points"], key=lambda p: (p["in_domain"]["mean"] + p["out_of_domain"]["mean"], p["weight"])
    )
    assert facts["best"]["weight"] == best["weight"]
    assert (out / "table.md").read_text().startswith("| weight | in-domain | minus weight 1 | p |")
    assert "weight 0.5" in (out / "table.txt").read_text()  # the sets one by one
    assert not (out / "vectors").exists()


def test_finished_points_are_kept(
    retromae: CommandLine, models: tuple[Path, Path], sets: Path, out: Path
) -> None:
    retromae.well(*words(models, sets, out))
    facts = json.loads((out / "results.json").read_text())
    assert [path.name for path in (out / "models").iterdir()] == [f"{facts['best']['weight']:g}"]
    before = times(out / "points")
    shutil.rmtree(out / "points" / "0.5" / "far")
    told = retromae.well(*words(models, sets, out), "--keep", "none")
    assert re.findall(r"^weight [^ ]+, [a-z]+: ", told, re.M) == ["weight 0.5, far: "]
    after = times(out / "points")
    assert {path for path in before if before[path] != after[path]} == {
        str(out / "points" / "0.5" / "far" / name) for name in ("0.json", "set.json")
    }
    again = json.loads((out / "results.json").read_text())
    assert (again["points"], again["comparisons"]) == (facts["points"], facts["comparisons"])
    assert not (out / "models").exists()
    # another weight joins the curve; nothing else is done again
    told = retromae.well(*words(models, sets, out), "--weights", "0.25", "--keep", "all")
    assert re.findall(r"^weight ([^ ]+), ", told, re.M) == ["0.25"] * 3
    assert sorted(path.name for path in (out / "models").iterdir()) == ["0", "0.25", "0.5", "1"]


def test_what_was_made_from_something_else_is_not_mixed_in(
    retromae: CommandLine, models: tuple[Path, Path], sets: Path, out: Path
) -> None:
    for changed, more in (
        ("metric", ["--metric", "MRR@10"]),
        ("sets", ["--split", "test", "--in_domain", sets / "far"]),
        ("encoder", ["--query_prompt", "find: "]),
    ):
        given = words(models, sets, out)
        if changed == "sets":
            given = ["average", *models, "--out_of_domain", sets / "farther", "--output_dir", out]
        done = retromae(*given, *more)
        assert done.code == 2 and f"its {changed} changed" in done.err
    done = retromae(*words((models[1], models[1]), sets, out))
    assert done.code == 2 and "its first model changed" in done.err


def test_the_picture(retromae: CommandLine, models: tuple[Path, Path], sets: Path, out: Path) -> None:
    pictures = []
    for _ in range(2):
        retromae.well(*words(models, sets, out), "--keep", "none")
        pictures.append((out / "curve.svg").read_bytes())
    assert pictures[0] == pictures[1]
    written = re.findall(r"<!-- (.*?) -->", pictures[0].decode())
    for text in (
        "0 · base",
        "0.5",
        "1 · dpr",
        "near dev",
        "mean of far dev, farther test",
        "in-domain nDCG@10",
    ):
        assert text in written, written
    pixels = matplotlib.image.imread(out / "curve.png")
    assert pixels.shape[1] > 1000 and 0.005 < (pixels[..., :3].min(axis=2) < 0.5).mean() < 0.2


BOTH = ["--in_domain", "SETS/near", "--out_of_domain", "SETS/far", "--output_dir", "OUT"]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["--out", "OUT", "--metric", "MRR@10"], "--metric belongs to the curve"),
        (["--out", "OUT", "--weight", "0.5", "--weight", "0.6"], "add up to 1"),
        ([], "say what to make"),
        (["--weight", "0.5", *BOTH], "--weight is for one average"),
        (["--in_domain", "SETS/near", "--output_dir", "OUT"], "at least one set with --out_of_domain"),
        (["--weights", "0,2", *BOTH], "from 0 to 1"),
        (["--weights", "0;1", *BOTH], "are numbers with commas"),
        (["--in_domain", "SETS/far", *BOTH], "two sets are called 'far'"),
        (["--in_domain", "SETS/none", *BOTH], "there is no folder"),
        ([*BOTH, "--output_dir", "SETS"], "holds no curve"),
        ([*BOTH, "--split", "train"], "qrels/train.tsv"),
    ],
)
def test_bad_input(
    retromae: CommandLine,
    models: tuple[Path, Path],
    sets: Path,
    tmp_path: Path,
    given: list[str],
    sentence: str,
) -> None:
    filled = [word.replace("SETS", str(sets)).replace("OUT", str(tmp_path / "out")) for word in given]
    done = retromae("average", *models, *filled)
    assert done.code == 2 and sentence in done.err, done
    assert not (tmp_path / "out").exists()


def test_three_models_have_no_curve(
    retromae: CommandLine, models: tuple[Path, Path], sets: Path, tmp_path: Path
) -> None:
    done = retromae(*words([*models, models[0]], sets, tmp_path / "out"))
    assert done.code == 2 and "runs between two models, but 3 are named" in done.err


def test_a_set_without_judgements_has_no_place_on_an_axis(
    retromae: CommandLine, models: tuple[Path, Path], sets: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "nq-dpr"
    folder.mkdir()
    (folder / "psgs_w100.tsv").write_text("id\ttext\ttitle\n1\tSalt keeps fish.\tSalt\n")
    (folder / "nq-dev.qa.csv").write_text("what keeps fish\t['salt']\n")
    axes = ["--in_domain", folder, "--out_of_domain", sets / "far", "--output_dir", tmp_path / "out"]
    done = retromae("average", *models, *axes)
    assert done.code == 2 and "nq-dpr has no judgements, only answer strings" in done.err


def test_forums_are_one_set(sets: Path, tmp_path: Path) -> None:
    for forum in ("android", "tex"):
        write_set(tmp_path / "cqadupstack" / forum, split="dev")
    config = CurveConfig(in_domain=[str(sets / "farther")], out_of_domain=[str(tmp_path / "cqadupstack")])
    near, forums = planned_sets(config)
    assert (near.split, forums.split, forums.role) == ("test", "dev", "out_of_domain")
    files = [file for file, *_ in forums.stamp()]
    assert {file.partition("/")[0] for file in files} == {"android", "tex"} and len(files) == 6
    (tmp_path / "cqadupstack" / "tex" / "qrels" / "dev.tsv").rename(tmp_path / "gone.tsv")
    assert planned_sets(config)[1].split == "test"


def test_weights() -> None:
    assert parse_weights(["0,0.25", "0.250000001", "1", " 0.5 "]) == [0.0, 0.25, 0.5, 1.0]
    assert parse_weights(["0"]) == [0.0, 1.0]
    with pytest.raises(UserError, match="at least one weight below 1"):
        parse_weights(["1"])
