"""Where sentences end: rules over Unicode text, no model, no language setting.

A splitter maps a text to spans (start, end) in characters: in order, not overlapping, together covering
every character that is not white space. Any function of that form can take the place of the one here.

The rules, in the order of their weight:
- a blank line and the start of a list item always end a sentence; a single line break never does;
- `。！？` and the other full-width marks end one wherever they stand, `.` `!` `?` `…` `؟` `۔` `।` `॥` … only
  before white space; closing quotes and brackets stay with the sentence that they close;
- nothing ends before a small letter (for scripts that have them), so that "vs. the" or '"Stop!" he said'
  hold;
- a full stop after an abbreviation, an initial or a list number does not end a sentence; after those that
  can stand at the end of one (U.S., Inc., etc.) it does when a word follows that usually opens a sentence.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator

from retromae.core.errors import UserError

Span = tuple[int, int]
Splitter = Callable[[str], list[Span]]

_CLOSERS = "\"'”’»›)\\]}」』】》〉）］｝"
_FULL_WIDTH = "。！？｡．"
_MARKS = ".!?…‽؟۔।॥܀܁܂።፧၊။៕᠃᠉‼⁇⁈⁉"

# One character set first, so that the search runs through ordinary text at full speed; then one alternative
# per kind of boundary. A run of marks is tried from its first one only and without backtracking: linear.
# The end of the match is where the next sentence may begin.
_CANDIDATE = re.compile(
    rf"""
    [{_MARKS}{_FULL_WIDTH}\n]
    (?: (?<= \n ) (?: [^\S\n]*+ \n \s*+
                   | (?= [^\S\n]*+ (?: [-*+•‣▪◦–—·] | \(?(?:\d{{1,3}}|[A-Za-z])[.)] ) [^\S\n] ) )
    |   (?<= [{_FULL_WIDTH}] ) (?<! [{_FULL_WIDTH}]. ) [{_FULL_WIDTH}{_MARKS}]*+ [{_CLOSERS}]*+ (?![、，,;；])
    |   (?<= [{_MARKS}] ) (?<! [{_MARKS}]. ) (?P<more>[{_MARKS}]*+) (?P<closer>[{_CLOSERS}]*+) (?=\s)
    )
    """,
    re.X,
)

# After these a name or a number follows: never the end.
_NEVER = frozenset(
    """
    dr mr mrs ms mx messrs prof rev hon sen rep gov gen col maj capt cmdr lt sgt cpl pvt adm ste mt ft
    e.g i.e cf vs viz ca approx fig figs secs chap vols nr nrs resp incl ed eds
    hrsg bzw z.b d.h u.a vgl abb hl frl hr mme mlle sr sra srta ej pág núm dott sig ing avv
    г ул им стр рис т.е т.н напр
    """.split()  # noqa: SIM905 - read as words, not as quoted strings
)
# These can end a sentence too; the next word decides.
_SOMETIMES = frozenset(
    """
    u.s u.k u.n e.u d.c u.s.a p.m a.m b.c a.d b.c.e c.e ph.d m.d b.a m.a b.sc m.sc
    inc ltd co corp llc plc bros dept univ assn etc jr esq ave blvd rd st est min max tel usw usf
    jan feb mar apr jun jul aug sep sept oct nov dec mon tue wed thu fri sat sun
    """.split()  # noqa: SIM905
)
_BEFORE_NUMBERS = frozenset({"no", "nos", "p", "pp", "art", "sec", "ch", "vol", "abs", "bd", "eq", "eqs"})
"""Abbreviations before a number, otherwise words (or endings) like any other: "No. 5", but "No. I will." """
_DOTTED = re.compile(r"(?:[^\W\d_]\.)+[^\W\d_]")  # u.s, j.k
_OPENING = "\"'“”‘’«‹([{<"
_OPENERS = frozenset(
    """
    a an the this that these those it its he she they we you i his her their our my there here what when
    where why who how if in on at as for from with by after before since while although though because but and
    or so yet however moreover furthermore then thus therefore also no not some many most all one each both
    such to of is are der die das ein eine es er sie wir im am und aber le la les un une il elle et el los las
    una en y
    """.split()  # noqa: SIM905
)
_NUMBER_OPENS_LINE = re.compile(r"(?:^|\n)[^\S\n]*\(?(?:\d{1,3}\.)*\d{1,3}$")
_NEXT_WORD = re.compile(r"\s*[^\w\s]*\s*(\w{1,20})?")
_WINDOW = 24
"""Characters looked at before a full stop: more than any abbreviation in the lists has."""


def split_sentences(text: str) -> list[Span]:
    """Spans of the sentences, without the white space around them."""
    spans: list[Span] = []
    start = 0
    for end in _boundaries(text):
        _append_trimmed(spans, text, start, end)
        start = end
    _append_trimmed(spans, text, start, len(text))
    return spans


def split_lines(text: str) -> list[Span]:
    """Each line that is not blank is a sentence: for text that was split before."""
    spans: list[Span] = []
    start = 0
    for match in re.finditer(r"\n", text):
        _append_trimmed(spans, text, start, match.end())
        start = match.end()
    _append_trimmed(spans, text, start, len(text))
    return spans


def _append_trimmed(spans: list[Span], text: str, start: int, end: int) -> None:
    piece = text[start:end]
    start += len(piece) - len(piece.lstrip())
    if length := len(piece.strip()):
        spans.append((start, start + length))


def _boundaries(text: str) -> Iterator[int]:
    for match in _CANDIDATE.finditer(text):
        if match["closer"] is None or _mark_ends(text, match):
            yield match.end()


def _mark_ends(text: str, match: re.Match[str]) -> bool:
    """Whether a mark before white space ends its sentence."""
    after = _NEXT_WORD.match(text, match.end())
    following = (after[1] or "") if after else ""
    if following[:1].islower():
        return False
    begin = match.start()
    if text[begin] != "." or match["more"] or match["closer"].strip("'\"”’"):
        return True
    before = text[max(0, begin - _WINDOW) : begin]
    if not before or before[-1].isspace():
        return True
    if before[-1].isdigit():
        return not _NUMBER_OPENS_LINE.search(text, max(0, begin - _WINDOW), begin)
    return _word_ends(before.rsplit(None, 1)[-1].lstrip(_OPENING), following)


def _word_ends(word: str, following: str) -> bool:
    """Whether a full stop between these two words ends a sentence."""
    name = word.lower()
    if name in _BEFORE_NUMBERS:
        return not following[:1].isdigit()
    if name in _NEVER:
        return False
    initial = len(word) == 1 and word.isupper()
    if initial or name in _SOMETIMES or _DOTTED.fullmatch(name):
        return following.lower() in _OPENERS
    return True


_BY_NAME: dict[str, Splitter] = {"rules": split_sentences, "lines": split_lines}


def splitter_named(name: str) -> Splitter:
    """A splitter by its name here ("rules", "lines") or by where it can be imported ("module:function")."""
    if name in _BY_NAME:
        return _BY_NAME[name]
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function) if function else None
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"The sentence splitter {name!r} cannot be imported ({error}).") from error
    if not callable(found):
        known = ", ".join(_BY_NAME)
        raise UserError(f"There is no sentence splitter {name!r}: it is {known}, or module:function.")
    splitter: Splitter = found
    return splitter
