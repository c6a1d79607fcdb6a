"""HTML that cannot be broken by what it shows: every text is escaped unless it was made here."""

from __future__ import annotations

from html import escape

_VOID = {"meta", "link", "br", "hr", "img", "col"}


class Markup(str):
    """HTML that is right as it stands."""

    __slots__ = ()


def tag(name: str, /, *children: str | None, **attributes: str | bool | None) -> Markup:
    """An element. Plain text is escaped, `Markup` is not; None and False leave a child or an attribute out.

    Attributes are written as Python names: `class_` is class, `aria_label` is aria-label.
    """
    written = "".join(
        f" {key.rstrip('_').replace('_', '-')}"
        + ("" if value is True else f'="{escape(_writable(str(value)))}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    if name in _VOID:
        return Markup(f"<{name}{written}>")
    return Markup(f"<{name}{written}>{joined(*children)}</{name}>")


def joined(*children: str | None) -> Markup:
    return Markup("".join(_safe(child) for child in children if child is not None))


def _safe(text: str) -> str:
    return text if isinstance(text, Markup) else escape(_writable(text), quote=False)


def _writable(text: str) -> str:
    """Without halves of surrogate pairs, which JSON can hold and UTF-8 cannot."""
    return text.encode("utf-8", "replace").decode("utf-8")
