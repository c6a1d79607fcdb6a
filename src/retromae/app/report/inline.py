"""An SVG that matplotlib wrote, made a part of the page.

Colours become the page's variables, so that dark is dark; ids that nothing points to go, the others get a prefix,
so that two pictures on one page never share one; the style sheet that would reach the whole page goes.
"""

from __future__ import annotations

import re
from xml.etree import ElementTree

from retromae.app.report.markup import Markup
from retromae.app.report.palette import LIGHT

_SVG = "http://www.w3.org/2000/svg"
_XLINK = "{http://www.w3.org/1999/xlink}href"
_VARIABLES = {colour: f"var(--{name})" for name, colour in LIGHT.items()}
_COLOUR = re.compile(r"#[0-9a-f]{6}\b")
_FAMILY = re.compile(r"(font-family:|font:[^;]*?px)[^;]*")  # the short form or the long one
_POINTED_AT = re.compile(r"url\(#([^)]+)\)")


def inlined(svg: str, prefix: str, **attributes: str) -> Markup:
    """The <svg> element; `attributes` are those that it gets on the page."""
    root = ElementTree.fromstring(svg)
    box = root.get("viewBox", "")
    _remove(root, {"metadata", "style"})
    pointed_at = _references(root)
    for element in root.iter():
        element.tag = element.tag.removeprefix(f"{{{_SVG}}}")
        for name, value in list(element.attrib.items()):
            del element.attrib[name]
            if name == "id":
                if value in pointed_at:
                    element.set("id", prefix + value)
            elif name == _XLINK:
                element.set("href", f"#{prefix}{value[1:]}")
            else:
                element.set(name, _for_the_page(value, prefix))
    root.attrib.clear()
    for name, value in {"viewBox": box, **attributes}.items():
        root.set(name.rstrip("_").replace("_", "-"), value)
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _remove(root: ElementTree.Element, names: set[str]) -> None:
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.removeprefix(f"{{{_SVG}}}") in names:
                parent.remove(child)


def _references(root: ElementTree.Element) -> set[str]:
    found = set()
    for element in root.iter():
        for name, value in element.attrib.items():
            found |= {value[1:]} if name == _XLINK else set(_POINTED_AT.findall(value))
    return found


def _for_the_page(value: str, prefix: str) -> str:
    value = _COLOUR.sub(lambda match: _VARIABLES[match[0]], value)
    value = _FAMILY.sub(r"\1 var(--sans)", value)
    return _POINTED_AT.sub(rf"url(#{prefix}\1)", value)
