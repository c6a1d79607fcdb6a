"""Settings: strict reading, YAML and back."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from retromae.core.config import from_dict, options, read_recipe, read_yaml, setting, to_dict, write_yaml
from retromae.core.errors import UserError


@dataclass
class Example:
    name: str
    rate: float = setting(1e-4, "a rate")
    steps: int | None = setting(None, "steps")
    fast: bool = setting(False, "fast")
    kind: Literal["flat", "round"] = setting("flat", "kind")
    places: list[str] = field(default_factory=list)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"rate": "1e-5"}, {"rate": 1e-5}),
        ({"rate": 3}, {"rate": 3.0}),
        ({"steps": "1_000"}, {"steps": 1000}),
        ({"steps": 20.0}, {"steps": 20}),
        ({"steps": None}, {"steps": None}),
        ({"fast": "yes"}, {"fast": True}),
        ({"fast": False}, {"fast": False}),
        ({"kind": "round"}, {"kind": "round"}),
        ({"places": "here"}, {"places": ["here"]}),
        ({"places": ["a", 1]}, {"places": ["a", "1"]}),
        ({"name": 7}, {"name": "7"}),
    ],
)
def test_values_are_converted(given: dict[str, Any], expected: dict[str, Any]) -> None:
    read = to_dict(from_dict(Example, {"name": "x", **given}))
    assert {key: read[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rates": 1}, "unknown setting 'rates'; did you mean 'rate'"),
        ({"zzz": 1}, "known are: fast, kind"),
        ({"rate": "fast"}, "'rate' is 'fast', but must be a number"),
        ({"rate": True}, "must be a number"),
        ({"steps": 1.5}, "must be a whole number"),
        ({"fast": "perhaps"}, "must be true or false"),
        ({"kind": "square"}, "must be one of flat, round"),
        ({"rate": None}, "'rate' needs a value"),
        ({"places": 3}, "is a list of str"),
    ],
)
def test_wrong_values_are_refused_in_one_sentence(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        from_dict(Example, {"name": "x", **given}, "here")


def test_what_is_required_must_be_given() -> None:
    with pytest.raises(UserError, match="missing setting: name"):
        from_dict(Example, {})


def test_yaml_and_back(tmp_path: Path) -> None:
    example = from_dict(Example, {"name": "ünïcode", "rate": 1e-5, "places": ["a"]})
    write_yaml(tmp_path / "x.yaml", to_dict(example))
    assert from_dict(Example, read_yaml(tmp_path / "x.yaml")) == example


@pytest.mark.parametrize(
    ("content", "message"),
    [("a: [1", "line 1|line 2"), ("- a\n- b\n", "must hold settings"), ("a: b: c\n", "line 1")],
)
def test_broken_yaml_names_the_line(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "x.yaml").write_text(content)
    with pytest.raises(UserError, match=message):
        read_yaml(tmp_path / "x.yaml")


def test_missing_and_empty_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no settings file"):
        read_yaml(tmp_path / "none.yaml")
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert read_yaml(tmp_path / "empty.yaml") == {}


def test_hyphens_in_keys_are_underscores(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("learning-rate: 1\n")
    assert read_yaml(tmp_path / "x.yaml") == {"learning_rate": 1}


def test_a_recipe_may_be_like_another(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "first.yaml").write_text(
        "rate: 1\nsteps: {warm: 2, all: 9}\nplaces: [a, b]\npublished: {x: {y: 1}, z: 2}\n"
    )
    second = tmp_path / "inner" / "second.yaml"
    second.write_text("like: ../first.yaml\nsteps: {all: 5}\nplaces: [c]\n")
    third = tmp_path / "inner" / "third.yaml"
    third.write_text("like: second.yaml\nrate: null\npublished: {x: {w: 3}}\n")
    assert read_recipe(third) == {
        "steps": {"warm": 2, "all": 5},
        "places": ["c"],
        "published": {"x": {"w": 3}},
    }
    second.write_text("like: third.yaml\n")
    with pytest.raises(UserError, match="is like itself"):
        read_recipe(third)
    second.write_text("like: nowhere.yaml\n")
    with pytest.raises(UserError, match=r"no file '.*nowhere.yaml'"):
        read_recipe(third)


def test_options_describe_the_fields() -> None:
    by_name = {option.name: option for option in options(Example)}
    assert by_name["rate"].help == "a rate" and by_name["rate"].kind is float
    assert by_name["steps"].optional and by_name["places"].many
    assert by_name["kind"].choices == ("flat", "round")
