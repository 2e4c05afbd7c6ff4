"""Make matplotlib's SVG fit for a page: small, coloured by the page's style, and with ids that are unique in it."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

SPACE = "{http://www.w3.org/2000/svg}"
LINK = "{http://www.w3.org/1999/xlink}href"
ROLES = {
    "#010101": "ink",
    "#020202": "grid",
    "#030303": "a",
    "#040404": "b",
    "#050505": "c",
    "#060606": "band",
    "#070707": "bad",
}
"""Role of each colour that is drawn with. The page's style gives each role a colour for light and one for dark."""
COLOUR = {role: colour for colour, role in ROLES.items()}

LEFT_OUT = {"metadata", "style", "clipPath"}
"""Elements that are left out. Clip paths are not needed, since all that is drawn lies within its axes."""
KEPT = {"font-size", "text-anchor", "stroke-width", "stroke-dasharray", "stroke-linecap", "opacity", "fill-opacity"}
"""Properties of a style that are kept as attributes. The rest is left to the page, or is the default."""
PLACES = ("d", "x", "y", "transform", "points", "viewBox")
NUMBER = re.compile(r"-?\d+\.\d+")
GAP = re.compile(r"\s*([MLCQz])\s*")
"""Pattern of a path's command with the spaces around it, which are not needed."""


def inline(drawn: str, *, name: str, label: str) -> str:
    """Return matplotlib's drawing as an `svg` element. A unique `name` prefixes its ids; `label` says what it shows."""
    root = ET.fromstring(drawn)  # noqa: S314 - matplotlib's own, not a stranger's
    used = {link.lstrip("#") for node in root.iter() if (link := node.get(LINK))}
    _clean(root, used, name)
    for attribute in ("width", "height", "version"):
        root.attrib.pop(attribute, None)
    root.set("role", "img")
    root.set("aria-label", label)
    return ET.tostring(root, encoding="unicode").replace("\n", "")


def _clean(node: ET.Element, used: set[str], name: str) -> None:
    node.tag = node.tag.removeprefix(SPACE)
    node.text = (node.text or "").strip() or None if node.tag != "text" else node.text
    node.tail = None
    node.attrib.pop("clip-path", None)
    own = node.attrib.pop("id", "")
    if own in used:
        node.set("id", f"{name}-{own}")
    if link := node.attrib.pop(LINK, None):
        node.set("href", f"#{name}-{link.lstrip('#')}")
    _restyle(node)
    for place in PLACES:
        if place in node.attrib:
            node.set(place, GAP.sub(r"\1", NUMBER.sub(_short, node.attrib[place])))
    if node.get("transform", "").startswith("rotate(-0 "):
        del node.attrib["transform"]
    for child in list(node):
        if child.tag.removeprefix(SPACE) in LEFT_OUT:
            node.remove(child)
            continue
        _clean(child, used, name)
        if child.tag in {"g", "defs"} and not child.attrib:
            _dissolve(node, child)


def _dissolve(parent: ET.Element, group: ET.Element) -> None:
    """Put the children of a group in its place. Paths that others refer to stay in `defs`, where nothing draws them."""
    place = list(parent).index(group)
    if group.tag == "defs":
        if not len(group):
            parent.remove(group)
        return
    parent.remove(group)
    for offset, child in enumerate(list(group)):
        parent.insert(place + offset, child)


def _restyle(node: ET.Element) -> None:
    """Replace styles by attributes, and colours by classes. So a viewer that allows no style draws it too."""
    pairs = (part.partition(":") for part in node.attrib.pop("style", "").split(";"))
    style = {key.strip(): value.strip() for key, _, value in pairs if value}
    size = re.search(r"([\d.]+)px", style.get("font", ""))
    if size:
        style["font-size"] = size[1]
    classes = []
    for paint in ("fill", "stroke"):
        colour = style.get(paint, "")
        if colour.startswith("#"):
            classes.append(f"{paint[0]}-{ROLES.get(colour, 'ink')}")
            if paint == "stroke":
                node.set("stroke", "currentColor")
        elif colour == "none":
            node.set(paint, "none")
    for key in KEPT & style.keys():
        node.set(key, NUMBER.sub(_short, style[key].removesuffix("px")))
    if classes:
        node.set("class", " ".join(classes))


def _short(number: re.Match[str]) -> str:
    return f"{float(number[0]):.1f}".removesuffix(".0")
