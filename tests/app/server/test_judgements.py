"""Grades are kept at once and for good, and can be trained on as they lie."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.server.serving import CORPUS, Server, message
from retromae.app.server.judgements import LOG, Judgements
from retromae.app.server.running import judgements_folder
from retromae.app.verbs import command_of
from retromae.core.errors import UserError
from retromae.text.pairs import Pairs
from retromae.text.store import Passage


def judged(folder: Path) -> Judgements:
    judgements = Judgements(folder)
    judgements.judge("which owl", CORPUS[14], 3, system="dense", rank=2)
    judgements.judge("which owl", CORPUS[2], 0)
    judgements.judge("keeping  fish ", CORPUS[2], 1)
    judgements.judge("nothing fits", CORPUS[5], 0)
    return judgements


def test_the_folder_can_be_trained_on(tmp_path: Path) -> None:
    with judged(tmp_path / "j"):
        pairs = Pairs.open(tmp_path / "j", cache=tmp_path / "cache")
    assert sorted(query.text for query in pairs.queries) == ["keeping fish", "which owl"]
    texts = {query.text: row for row, query in enumerate(pairs.queries)}
    ids = pairs.passages.ids
    assert [ids[n] for n in pairs.positives[texts["which owl"]]] == ["p14"]
    assert pairs.negatives is not None
    assert [ids[n] for n in pairs.negatives[texts["which owl"]]] == ["p02"]
    assert [ids[n] for n in pairs.positives[texts["keeping fish"]]] == ["p02"]
    assert {passage.id: passage for passage in pairs.passages} == {"p02": CORPUS[2], "p14": CORPUS[14]}


def test_a_second_opinion_and_none(tmp_path: Path) -> None:
    with judged(tmp_path) as judgements:
        assert judgements.judge("which owl", CORPUS[14], 1) == 4
        assert judgements.grades(" which   owl") == {"p14": 1, "p02": 0}
        assert judgements.judge("which owl", CORPUS[14], None) == 3
        assert judgements.judge("which owl", CORPUS[2], None) == 2
        assert judgements.grades("which owl") == {}
        summary = judgements.summary()
    assert (summary["judgements"], summary["grades"], summary["trainable"]) == (2, [1, 1, 0, 0], 1)
    assert [row["query"] for row in summary["queries"]] == ["nothing fits", "keeping fish"]
    assert len((tmp_path / LOG).read_text().splitlines()) == 7  # the log forgets nothing
    assert "which owl" not in (tmp_path / "queries.jsonl").read_text()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b c", "é\u2028"]), st.integers(0, 3), st.sampled_from([None, 0, 1, 2, 3])
        ),
        max_size=12,
    )
)
def test_what_is_read_again_is_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, int | None]]
) -> None:
    folder = tmp_path_factory.mktemp("judged")
    wanted: dict[tuple[str, str], int] = {}
    with Judgements(folder) as judgements:
        for query, number, grade in steps:
            judgements.judge(query, CORPUS[number], grade)
            wanted.pop((" ".join(query.split()), CORPUS[number].id), None)
            if grade is not None:
                wanted[" ".join(query.split()), CORPUS[number].id] = grade
        summary = judgements.summary()
        files = {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with Judgements(folder) as again:
        assert again.summary() == summary
        assert {(q, p): g for q in ("a", "b c", "é") for p, g in again.grades(q).items()} == wanted
    assert {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == files


def test_a_line_that_was_cut_off_is_dropped(tmp_path: Path) -> None:
    with judged(tmp_path):
        pass
    whole = (tmp_path / LOG).read_bytes()
    (tmp_path / LOG).write_bytes(whole[:-30])
    with Judgements(tmp_path) as judgements:
        assert judgements.summary()["judgements"] == 3
        judgements.judge("another", CORPUS[1], 2)
    with Judgements(tmp_path) as judgements:
        assert judgements.grades("another") == {"p01": 2}


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        '{"query": "a"}',
        '{"query": "a", "passage": {"id": "x"}, "grade": 1}',
        '{"query": "a", "passage": {"id": "x", "title": "", "text": ""}, "grade": 9}',
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    with judged(tmp_path):
        pass
    lines = (tmp_path / LOG).read_text().splitlines()
    (tmp_path / LOG).write_text("\n".join([lines[0], line, *lines[1:], ""]))
    with pytest.raises(UserError, match=rf"{LOG}:2 is damaged"):
        Judgements(tmp_path)


def test_ids_that_no_table_can_hold(tmp_path: Path) -> None:
    with Judgements(tmp_path) as judgements:
        for name in ("a\tb", "a\nb", "a b", "a\u2028b"):
            judgements.judge("q", Passage(name, "", f"text of {name!r}"), 2)
    pairs = Pairs.open(tmp_path, cache=tmp_path / "cache")
    assert len(pairs.passages) == len(pairs.positives[0]) == 4
    assert "a b" in pairs.passages.ids


def test_nothing_is_written_before_the_first_grade(tmp_path: Path) -> None:
    with Judgements(tmp_path / "j") as judgements:
        assert judgements.summary()["judgements"] == 0
    assert not (tmp_path / "j").exists()


def test_where_they_are_kept(run: Path) -> None:
    assert judgements_folder(run) == run.resolve() / "judgements"
    assert judgements_folder(run / "index") == run.resolve() / "index-judgements"


# Through the server


def test_judging_by_the_api(server: Server) -> None:
    assert server.client.get("/judgements/export").status_code == 404
    assert server.post(
        "/judgements", query="an owl", passage="p14", grade=3, system="fused", rank=1
    ).json() == {"judgements": 1}
    server.post("/judgements", query="an owl", passage="evil", grade=0)
    assert server.client.get("/judgements", params={"query": " an  owl "}).json() == {
        "grades": {"p14": 3, "evil": 0}
    }
    record = json.loads((server.judgements.folder / LOG).read_text().splitlines()[0])
    assert (record["system"], record["rank"], record["passage"]["text"]) == ("fused", 1, CORPUS[14].text)
    summary = server.client.get("/judgements").json()
    assert (
        summary["train"].startswith("retromae finetune ")
        and str(server.judgements.folder) in summary["train"]
    )
    response = server.client.get("/judgements/export")
    assert response.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(response.content)) as archive:
        assert set(archive.namelist()) == {"queries.jsonl", "corpus.jsonl", "qrels/train.tsv", LOG}
        for name in archive.namelist():
            assert archive.read(name) == (server.judgements.folder / name).read_bytes()
    server.post("/judgements", query="an owl", passage="p14", grade=None)
    assert server.client.get("/judgements", params={"query": "an owl"}).json() == {"grades": {"evil": 0}}


def test_bad_judgements(server: Server) -> None:
    good = {"query": "q", "passage": "p01", "grade": 1}
    for change in ({"grade": 4}, {"grade": -1}, {"grade": "3"}, {"grade": True}, {"query": " "}, {"query": "a" * 10001},
                   {"passage": 5}, {"folder": "/tmp"}):  # fmt: skip
        response = server.client.post("/judgements", json={**good, **change})
        assert response.status_code == 400 and message(response), change
    assert message(server.post("/judgements", query="q", passage="p01")) == "the field grade is missing."


def test_a_place_that_cannot_be_written(server: Server) -> None:
    server.judgements.folder.write_text("a file is in the way")
    response = server.post("/judgements", query="q", passage="p01", grade=2)
    assert response.status_code == 507 and "cannot be saved in" in message(response)
    server.judgements.folder.unlink()
    assert server.post("/judgements", query="q", passage="p01", grade=2).json() == {"judgements": 1}


@pytest.mark.slow
def test_training_on_them(tmp_path: Path, run: Path) -> None:
    """The command that the page shows."""
    with Judgements(tmp_path / "j") as judgements:
        for n, passage in enumerate(CORPUS[:24]):
            judgements.judge(" ".join(passage.text.split()[1:4]), passage, 1 + n % 3)
    places = [
        "--pairs",
        str(tmp_path / "j"),
        "--output_dir",
        str(tmp_path / "out"),
        "--cache",
        str(tmp_path / "c"),
    ]
    sizes = ["--max_steps", "2", "--per_device_train_batch_size", "4", "--passage_max_len", "60"]
    words = [str(run / "model"), *places, *sizes]
    command_of("finetune").main(words, standalone_mode=False)
    assert (tmp_path / "out" / "model").is_dir()
