"""SVG from matplotlib, adapted for use within a page with others like it, or alone in a file."""

import re
from xml.etree import ElementTree

SVG = "http://www.w3.org/2000/svg"
HREF = "{http://www.w3.org/1999/xlink}href"
INK = "#123456"
"""Drawn for text and axes; replaced by the colour of the text around the figure."""
PRINTED_INK, PAPER = "#222222", "#ffffff"
LONG_NUMBER = re.compile(r"-?\d+\.\d{3,}")
FONT = re.compile(r"(?:(?P<weight>bold|\d{3}) )?(?P<size>[\d.]+px) .*")
"""The short form in which matplotlib writes a font, e.g. `9px 'DejaVu Sans', sans-serif`."""


def inline(text: str, name: str) -> str:
    """Adapt a drawing of matplotlib for use within HTML.

    Without size (the viewBox stays), metadata, style sheets and style attributes, which a page may forbid. Its ids
    begin with `name`, so that those of two figures never collide; numbers have at most two decimals.
    """
    root = ElementTree.fromstring(text)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}style"):
                parent.remove(child)
    for element in root.iter():
        _plain_attributes(element)
    _own_ids(root, name)
    for size in ("width", "height", "version"):
        root.attrib.pop(size, None)
    root.attrib |= {"stroke-linejoin": "round", "font-family": "sans-serif"}
    ElementTree.register_namespace("", SVG)
    written = ElementTree.tostring(root, encoding="unicode").replace(INK, "currentColor")
    return re.sub(r"\s*\n\s*", "\n", written).strip()


def standalone(svg: str, title: str, description: str) -> str:
    """Make a file of its own: dark on white, with its title and its description in words."""
    root = ElementTree.fromstring(svg.replace("currentColor", PRINTED_INK))
    _, _, width, height = root.attrib["viewBox"].split()
    root.attrib |= {"width": width, "height": height}
    texts = [ElementTree.Element(f"{{{SVG}}}title"), ElementTree.Element(f"{{{SVG}}}desc")]
    texts[0].text, texts[1].text = title, description
    ground = ElementTree.Element(f"{{{SVG}}}rect", {"width": width, "height": height, "fill": PAPER})
    root[:0] = [*texts, ground]
    ElementTree.register_namespace("", SVG)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=False) + "\n"


def _plain_attributes(element: ElementTree.Element) -> None:
    """Turn styles into attributes, and drop the namespace of links and needless digits of numbers."""
    for declaration in filter(None, element.attrib.pop("style", "").split(";")):
        key, value = (part.strip() for part in declaration.split(":", 1))
        if key == "font":
            element.attrib |= _font(value)
        elif key != "font-family":
            element.set(key, value)
    if HREF in element.attrib:
        element.set("href", element.attrib.pop(HREF))
    for key, value in element.attrib.items():
        if key not in ("id", "href"):
            element.set(key, " ".join(LONG_NUMBER.sub(_rounded, value).split()))


def _font(value: str) -> dict[str, str]:
    found = FONT.fullmatch(value)
    assert found is not None, value
    weight = {"font-weight": found["weight"]} if found["weight"] else {}
    return {"font-size": found["size"]} | weight


def _rounded(found: re.Match[str]) -> str:
    return f"{float(found[0]):.2f}".rstrip("0").rstrip(".").replace("-0", "0", found[0].startswith("-0.00"))


def _own_ids(root: ElementTree.Element, name: str) -> None:
    """Number the ids that are referred to behind the figure's name; remove all others."""
    links = re.compile(r"^#(?P<whole>.+)$|url\(#(?P<inner>[^)]+)\)")
    used: dict[str, str] = {}
    for element in root.iter():
        for key, value in element.attrib.items():
            if (found := links.search(value)) and (key == "href" or found["inner"]):
                old = found["whole"] or found["inner"]
                new = used.setdefault(old, f"{name}-{len(used)}")
                element.set(key, value.replace(f"#{old}", f"#{new}"))
    for element in root.iter():
        own = element.attrib.pop("id", None)
        if own in used:
            element.set("id", used[own])
