"""`retromae adapt` from the command line to the folder that it leaves."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling

from app.adapt.made import flags, write_text
from app.command_line import CommandLine
from retromae.app.adapt.adapt import _claim as claim
from retromae.app.adapt.adapt import _stages as stages_of
from retromae.app.adapt.settings import AdaptConfig
from retromae.app.adapt.stages import Stage, Stages
from retromae.app.adapt.start import open_base
from retromae.app.adapt.work import Work
from retromae.core.config import from_dict, read_yaml
from retromae.core.runs import RunFolder
from retromae.retrieval.encoder import Encoder
from retromae.retrieval.systems import open_systems
from training.finetuning import retromae as run_retromae
from training.finetuning import started, write_collection

Tiny = Callable[[str], Path]


@pytest.fixture(scope="session")
def embedder(tiny_folder: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that says how it makes vectors: by the mean, compared by the cosine."""
    folder = tmp_path_factory.mktemp("embedder") / "model"
    transformer = Transformer(str(tiny_folder("bert")))
    pooling = Pooling(transformer.get_embedding_dimension(), "mean")
    SentenceTransformer(
        modules=[transformer, pooling], similarity_fn_name="cosine", device="cpu"
    ).save_pretrained(str(folder))
    return folder


@pytest.fixture
def text(tmp_path: Path) -> Path:
    return write_text(tmp_path / "text.jsonl")


def verdict(run: Path) -> dict[str, object]:
    return dict(json.loads((run / "verdict.json").read_text()))


def states(run: Path) -> dict[str, str]:
    return {entry["name"]: entry["state"] for entry in json.loads((run / "adapt.json").read_text())["stages"]}


@pytest.mark.filterwarnings("ignore:.*held-out queries to choose by")
def test_an_embedder_is_trained_on_pairs_judged_indexed_and_reported(
    retromae: CommandLine, embedder: Path, text: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    said = retromae.well("adapt", text, *flags(run, embedder, minutes=0.1))
    found = verdict(run)
    assert str(found["sentence"]) in " ".join(said.split()) and found["metric"] == "nDCG@10"
    systems = {system["name"]: system for system in found["systems"]}  # type: ignore[union-attr]
    names = list(systems)
    assert all(system["weight"] in (0.4, 0.5, 0.6) for system in systems.values() if system["by_rule"])
    assert names[:3] == ["base", "contrastive", "averaged"] and "bm25" in names and "base+bm25" in names
    assert found["returned"] in names and not str(found["returned"]).startswith("contrastive")
    assert states(run) | {"pretrained": "skipped", "hard": "skipped", "questions": "skipped"} == states(run)
    assert not (run / "rows").exists() and not list(run.glob("stages/*/checkpoint-*"))
    config = from_dict(AdaptConfig, read_yaml(run / "config.yaml"))
    opened = [Encoder.open(run / "stages" / stage) for stage in ("contrastive", "averaged")]
    read = {
        (one.max_query_length, one.max_passage_length) for one in [*opened, open_base(str(embedder), config)]
    }
    assert len(read) == 1, "all read as much of a text, or the comparison is not fair"
    assert (run / "report.html").read_text().count("<h1") == 1
    assert SentenceTransformer(str(run / "model"), device="cpu").get_sentence_embedding_dimension() == 32
    systems = open_systems(run)
    assert len(systems.search("the harbour and the bridge", 3)) == 3
    assert (run / "base_index").is_dir() == (states(run)["base_index"] == "finished")

    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    retromae.well("adapt", text, *flags(run, embedder, minutes=0.1))
    after = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    changed = {path.name for path in after if after[path] != before.get(path)}
    assert changed <= {"manifest.json", "config.yaml", "adapt.json"}, "nothing is done twice"

    retromae.well("adapt", text, *flags(run, embedder, minutes=0.1, language="german"))
    assert states(run)["report"] == "finished"
    assert (run / "corpus" / "corpus.jsonl").stat().st_mtime_ns == before[run / "corpus" / "corpus.jsonl"]
    assert (run / "judged" / "bm25.trec").stat().st_mtime_ns != before[run / "judged" / "bm25.trec"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*held-out queries to choose by")
@pytest.mark.parametrize(("start", "objective"), [("nothing", "retromae"), ("plain", "dupmae")])
def test_other_starts_are_pretrained_first(
    retromae: CommandLine, tiny_folder: Tiny, text: Path, tmp_path: Path, start: str, objective: str
) -> None:
    run = tmp_path / "run"
    scratch = ["--from_scratch", "--vocabulary", 300, "--hidden_size", 16, "--num_hidden_layers", 1]
    model = tiny_folder("bert") if start == "plain" else None
    more = [] if model else scratch
    retromae.well("adapt", text, *flags(run, model, minutes=0.1, objective=objective), *more)
    found = verdict(run)
    names = [system["name"] for system in found["systems"]]  # type: ignore[union-attr]
    assert ("base" in names) == (start == "plain") and "pretrained" in names
    assert ("pretrained-lexical" in names) == (objective == "dupmae")
    settings = (run / "stages" / "contrastive" / "config.yaml").read_text()
    assert f"reconstruction: {objective}" in settings and "pooling: null" in settings
    assert Encoder.open(run / "model").encode_passages(["the old bridge"]).dense.shape[0] == 1
    assert (run / "index").is_dir() and (run / "report.html").is_file()


@pytest.mark.slow
def test_own_queries_train_and_judge(
    retromae: CommandLine, embedder: Path, text: Path, tmp_path: Path
) -> None:
    """They alone judge, on their own passages; and what was trained may be returned without averaging."""
    own = write_collection(tmp_path / "own")
    run = tmp_path / "run"
    retromae.well("adapt", text, *flags(run, embedder, minutes=0.2, pairs=own))
    found = verdict(run)
    queries = dict(found["queries"])  # type: ignore[call-overload]
    assert queries["made_from"] == "your queries"
    asked = {row.split("\t")[0] for row in (own / "qrels" / "test.tsv").read_text().splitlines()[1:]}
    judged = (run / "judging" / "qrels" / "test.tsv").read_text().splitlines()[1:]
    assert {row.split("\t")[0] for row in judged} == {f"own-{name}" for name in asked}
    assert queries["test"] == len(asked)
    passages = (run / "judging" / "corpus.jsonl").read_text()
    assert passages.count("\n") == 60 and "In year" not in passages, "the user's passages, and no others"
    trained = (run / "corpus" / "qrels" / "train.tsv").read_text()
    assert "\nown-train" in trained and "\ntitle:" in trained
    assert (run / "index").is_dir() and (run / "report.html").is_file()
    records = {entry["name"]: entry for entry in json.loads((run / "adapt.json").read_text())["stages"]}

    with (own / "qrels" / "train.tsv").open("a") as stream:
        stream.write("train0\td3\t1\n")
    retromae.well("adapt", text, *flags(run, embedder, minutes=0.2, pairs=own))
    again = {entry["name"]: entry for entry in json.loads((run / "adapt.json").read_text())["stages"]}
    assert {name for name in again if again[name]["times"] > records[name]["times"]} >= {"corpus", "verdict"}


def test_what_follows_a_stage_that_was_done_again_is_not_taken_for_finished(tmp_path: Path) -> None:
    """Also where a kill came in between: the second run of `first` finished, that of `second` never began."""
    done: list[str] = []

    def run(*names: str) -> None:
        stages = Stages(tmp_path, None, lambda _: None)
        for name, after in (("first", ()), ("second", ("first",)), ("third", ("second",))):
            if name in names:
                does = lambda name=name: done.append(name) or (tmp_path / name).touch()  # noqa: E731
                stages.do(Stage(name, name, does, after=after, leaves=(name,)))

    run("first", "second", "third")
    run("first", "second", "third")
    assert done == ["first", "second", "third"]
    (tmp_path / "first").unlink()
    run("first")  # and killed
    run("first", "second", "third")
    assert done[3:] == ["first", "second", "third"]


def test_own_queries_that_grow_are_read_again(embedder: Path, text: Path, tmp_path: Path) -> None:
    """Judgements are added to the user's pairs; the stages that read them know."""
    own = write_collection(tmp_path / "own")
    config = AdaptConfig([str(text)], str(tmp_path / "run"), str(embedder), pairs=str(own))

    def inputs() -> dict[str, object]:
        run = RunFolder(tmp_path / "run")
        claim(run, config)
        stages = stages_of(config, Work(config, Console(), lambda: 0.0))
        return {stage.name: dict(stage.inputs) for stage in stages}

    before = inputs()
    assert inputs() == before
    with (own / "qrels" / "train.tsv").open("a") as stream:
        stream.write("train0\td3\t1\n")
    assert {name for name, value in inputs().items() if value != before[name]} == {"plan", "corpus"}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["EMPTY"], "there is no file"),
        (["PICTURES"], "there is no text"),
        (["TEN"], "too few to learn from"),
        (["nowhere"], "does not exist"),
        (["TEXT", "--model_name_or_path", "no/such/model"], "no/such/model"),
        (["TEXT", "--minutes", "0"], "minutes must be at least"),
        (["TEXT", "--trained_share", "0"], "trained_share is a share"),
        (["TEXT", "--from_scratch"], "leave out model_name_or_path"),
        (["TEXT", "--questions_from", "dreams"], "questions_from takes"),
        (["TEXT", "--generate_url", "http://x"], "needs generate_model"),
        (["TEXT", "--output_dir", "FOREIGN"], "holds no run of adapt"),
        (["TEXT", "--pairs", "nothing-here"], "nothing-here"),
        (["TEXT", "--colour", "blue"], "colour"),
    ],
)
def test_bad_input_is_one_sentence(
    retromae: CommandLine, embedder: Path, tmp_path: Path, words: list[str], sentence: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "cat.png").write_bytes(b"\x89PNG")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "precious.txt").write_text("keep me")
    places = {"EMPTY": "empty", "PICTURES": "pictures", "FOREIGN": "foreign", "TEN": "ten.jsonl"}
    write_text(tmp_path / "ten.jsonl", 10)
    write_text(tmp_path / "text.jsonl", 60)
    places["TEXT"] = "text.jsonl"
    given = [str(tmp_path / places[word]) if word in places else word for word in words]
    done = retromae("adapt", *flags(tmp_path / "run", embedder, minutes=0.1), *given)
    assert done.code == 2 and sentence in " ".join(done.err.split()), done
    assert "Traceback" not in done.err
    assert [path.name for path in (tmp_path / "foreign").iterdir()] == ["precious.txt"]


def test_the_settings_are_shown(retromae: CommandLine, tmp_path: Path) -> None:
    said = retromae.well("adapt", "docs", "--output_dir", tmp_path / "run", "--print_config")
    assert "sources:\n- docs" in said and "minutes: 20.0" in said and not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_killed_anywhere_it_goes_on(embedder: Path, text: Path, tmp_path: Path, how: signal.Signals) -> None:
    """Killed in every stage in turn; each time less is left to do, and the end is a whole run."""
    run = tmp_path / "run"
    words, cache = ("adapt", text, *flags(run, embedder, minutes=0.2)), tmp_path / "cache"
    for stage in ("corpus", "base", "contrastive", "verdict", "index"):
        process = started(*words, cache=cache)
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline and process.poll() is None:
            if (run / "adapt.json").is_file() and stage in _states_now(run):
                break
            time.sleep(0.02)
        process.send_signal(how)
        _, told = process.communicate(timeout=240)
        assert "Traceback" not in told
        if how == signal.SIGINT:
            assert process.returncode in (130, 0)
    done = run_retromae(*words, cache=cache)
    assert done.returncode == 0, done.stderr
    assert set(states(run).values()) <= {"finished", "skipped"} and verdict(run)["returned"]
    assert not list(run.glob("**/*.tmp"))


def _states_now(run: Path) -> dict[str, str]:
    try:
        return states(run)
    except ValueError:
        return {}
