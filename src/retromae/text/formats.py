"""Markup to plain text: HTML, Markdown and reStructuredText, each to a title and a text.

Light on purpose: enough that headings, paragraphs and list items keep their line breaks (the sentence
splitter needs them) and that markup, navigation and scripts do not end up among the training words.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Literal

from retromae.core.errors import UserError

Html = Literal["builtin", "trafilatura"]
Reader = Callable[[str], tuple[str, str]]

_DROPPED = frozenset({"script", "style", "nav", "noscript", "template", "svg", "iframe"})
_BLOCKS = frozenset(
    """
    address article aside blockquote body caption dd details div dl dt fieldset figcaption figure footer form
    h1 h2 h3 h4 h5 h6 header hr html li main ol option p pre section summary table td th title tr ul
    """.split()  # noqa: SIM905 - a list of forty quoted words is harder to read
)
_MANY_BLANK_LINES = re.compile(r"\n(?:[ \t]*\n)+")


def _tidy(text: str) -> str:
    """One blank line between blocks, no spaces at the ends of lines."""
    return _MANY_BLANK_LINES.sub("\n\n", re.sub(r"[ \t]+\n", "\n", text)).strip()


class _TextOfHtml(HTMLParser):
    """Collects the text outside dropped elements; a block element breaks the line."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.title: list[str] = []
        self.parts: list[str] = []
        self._dropped: list[str] = []
        self._in_title = False
        self._verbatim = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _DROPPED:
            self._dropped.append(tag)
        elif tag == "body":
            self._dropped.clear()  # an element left open in the head ends with it
        elif tag == "title" and not self.title:
            self._in_title = True
        elif tag == "pre":
            self._verbatim += 1
        self._break(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._break(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self._dropped:  # also closes what was left open inside it
            del self._dropped[self._dropped.index(tag) :]
        elif tag == "title":
            self._in_title = False
        elif tag == "pre":
            self._verbatim = max(0, self._verbatim - 1)
        self._break(tag)

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self.title.append(data)
        elif not self._dropped:
            self.parts.append(data if self._verbatim else re.sub(r"\s+", " ", data))

    def _break(self, tag: str) -> None:
        if tag in _BLOCKS:
            self.parts.append("\n\n")
        elif tag == "br":
            self.parts.append("\n")


def html_to_text(source: str) -> tuple[str, str]:
    """(title, text) with the standard library alone."""
    parser = _TextOfHtml()
    parser.feed(source)
    parser.close()
    lines = (line.strip(" ") for line in re.sub(" +", " ", "".join(parser.parts)).split("\n"))
    return " ".join("".join(parser.title).split()), _tidy("\n".join(lines))


def html_main_text(source: str) -> tuple[str, str]:
    """(title, text) of a page's main part, as trafilatura finds it; of the whole page where it finds none."""
    try:
        import trafilatura
    except ImportError as error:
        raise UserError(
            "Reading HTML with trafilatura needs it installed: pip install 'retromae[html]'."
        ) from error
    title, whole = html_to_text(source)
    text = trafilatura.extract(source, include_comments=False)
    return title, _tidy(text) if text else whole


_FRONT_MATTER = re.compile(
    r"\A(?:---[ \t]*\n(.*?)\n(?:---|\.\.\.)|\+\+\+[ \t]*\n(.*?)\n\+\+\+)[ \t]*(?:\n|\Z)", re.S
)
_FRONT_TITLE = re.compile(r"^title[ \t]*[:=][ \t]*(.+?)[ \t]*$", re.M | re.I)
_FENCE = re.compile(r"^[ \t]{0,3}(```+|~~~+)[^\n]*\n(.*?)(?:^[ \t]{0,3}\1[`~]*[ \t]*$|\Z)", re.M | re.S)
_HEADING = re.compile(r"^#{1,6}[ \t]+(.*?)[ \t]*#*[ \t]*$|^(?=\S)([^\n]+)\n(?:=+|-{2,})[ \t]*$", re.M)
# Lengths are bounded so that one long line full of unpaired marks stays linear.
_MARKDOWN: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"<!--.*?-->", re.S), ""),
    (re.compile(r"^[ \t]{0,3}\[[^\]\n]+\]:[ \t]*\S+.*$", re.M), ""),  # link definitions
    (re.compile(r"!\[([^\]]{0,500})\](?:\([^)\n]*\)|\[[^\]\n]*\])"), r"\1"),  # images
    (re.compile(r"\[([^\]\n]{1,500})\](?:\((?:[^()\n]|\([^()\n]*\))*\)|\[[^\]\n]*\])"), r"\1"),  # links
    (re.compile(r"<((?:https?|mailto):[^>\s]+)>"), r"\1"),
    (re.compile(r"</?[A-Za-z][^<>\n]*>"), ""),  # inline HTML
    (re.compile(r"^[ \t]{0,3}(?:(?:\*[ \t]*){3,}|(?:-[ \t]*){3,}|(?:_[ \t]*){3,})$", re.M), ""),  # rules
    (re.compile(r"^[ \t]*\|?(?:[ \t]*:?-+:?[ \t]*\|)+[ \t:|-]*$", re.M), ""),  # the rule under a table's head
    (re.compile(r"^[ \t]{0,3}(?:>[ \t]?)+", re.M), ""),  # quotes
    (re.compile(r"(?<!`)`([^`\n]+)`(?!`)"), r"\1"),
    (re.compile(r"(\*\*|__)(?=\S)(.{1,500}?)(?<=\S)\1"), r"\2"),
    (re.compile(r"(?<![\w*])([*_])(?=[^\s*_])([^\n]{0,500}?[^\s*_])\1(?![\w*])"), r"\2"),
)

_TABLE_ROW = re.compile(r"^[ \t]{0,3}\|([^\n]*)$", re.M)
_CELL_END = re.compile(r"(?<!\\)\|")


def _cells(row: re.Match[str]) -> str:
    """A table's row as its cells, those with text in them."""
    return ", ".join(cell.strip().replace("\\|", "|") for cell in _CELL_END.split(row[1]) if cell.strip())


def _first_heading(text: str) -> tuple[str, str]:
    """The first heading, and the text without it where nothing comes before it."""
    match = _HEADING.search(text)
    if match is None:
        return "", text
    title = (match[1] or match[2] or "").strip()
    return title, text[match.end() :] if not text[: match.start()].strip() else text


def _inline_markdown(text: str) -> str:
    for pattern, replacement in _MARKDOWN:
        text = pattern.sub(replacement, text)
    return _TABLE_ROW.sub(_cells, text)


def markdown_to_text(source: str) -> tuple[str, str]:
    """(title, text): no front matter, links as their text, code as text; the title is the first heading."""
    title = ""
    if front := _FRONT_MATTER.match(source):
        if named := _FRONT_TITLE.search(front[1] or front[2] or ""):
            title = named[1].strip("\"'")
        source = source[front.end() :]
    pieces: list[str] = []
    position = 0
    for fence in _FENCE.finditer(source):
        pieces += [_without_headings(source[position : fence.start()]), fence[2]]
        position = fence.end()
    pieces.append(_without_headings(source[position:]))
    if not title:
        before_code = source[: first.start()] if (first := _FENCE.search(source)) else source
        title = _inline_markdown(_first_heading(before_code)[0])
    text = _tidy("\n".join(pieces))
    return title, text.removeprefix(title).lstrip() if title and text.startswith(f"{title}\n") else text


def _without_headings(text: str) -> str:
    """Markdown outside code: headings become lines of their own, the rest loses its markup."""
    return _inline_markdown(_HEADING.sub(lambda match: f"\n{(match[1] or match[2] or '').strip()}\n", text))


_RST_RULE = r"[=\-~^\"'`*+#:.<>_]"
_RST_HEADING = re.compile(
    rf"^(?:(?P<over>{_RST_RULE})(?P=over){{2,}}[ \t]*\n)?[ \t]*(?P<title>\S[^\n]*)\n"
    rf"(?P<under>{_RST_RULE})(?P=under){{2,}}[ \t]*$",
    re.M,
)
_RST: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"^\.\.[ \t]+(?:code-block|code|sourcecode|note|warning|tip|important)::.*$", re.M), ""),
    (re.compile(r"^\.\.(?:[ \t].*)?$", re.M), ""),  # other directives, targets and comments
    (re.compile(r"^[ \t]+:[\w-]+:.*$", re.M), ""),  # options of directives
    (re.compile(r"::[ \t]*$", re.M), ":"),
    (re.compile(r":[\w:+.-]+:`([^`<]+?)[ \t]*(?:<[^>`]*>)?`"), r"\1"),  # roles
    (re.compile(r"`([^`<]+?)[ \t]*<[^>`]*>`__?"), r"\1"),  # links
    (re.compile(r"``(.{1,500}?)``"), r"\1"),
    (re.compile(r"`([^`\n]+)`_{0,2}"), r"\1"),
    (re.compile(r"(?<![\w*])(\*{1,2})(?=[^\s*])([^\n]{0,500}?[^\s*])\1(?![\w*])"), r"\2"),
    (re.compile(r"^[=\-~^\"`*+#]{4,}(?:[ \t]+[=\-]+)*[ \t]*$", re.M), ""),  # transitions, borders of tables
)


def rst_to_text(source: str) -> tuple[str, str]:
    """(title, text): roles and links as their text, directives dropped, code kept."""
    found = _RST_HEADING.search(source)
    title = found["title"].strip() if found else ""
    text = _RST_HEADING.sub(lambda match: f"\n{match['title'].strip()}\n", source)
    for pattern, replacement in _RST:
        text = pattern.sub(replacement, text)
    text = _tidy(text)
    return title, text.removeprefix(title).lstrip() if title and text.startswith(f"{title}\n") else text


def plain_text(source: str) -> tuple[str, str]:
    return "", source


def reader_of(suffix: str, html: Html = "builtin") -> Reader:
    """The function that turns a file with this ending into (title, text)."""
    of_html = html_main_text if html == "trafilatura" else html_to_text
    return {
        ".txt": plain_text,
        ".md": markdown_to_text,
        ".markdown": markdown_to_text,
        ".html": of_html,
        ".htm": of_html,
        ".xhtml": of_html,
        ".rst": rst_to_text,
    }[suffix]


TEXT_SUFFIXES = frozenset({".txt", ".md", ".markdown", ".html", ".htm", ".xhtml", ".rst"})
