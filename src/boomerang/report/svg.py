"""A chart as SVG for the page: matplotlib's, made fit for the page.

The page's content security policy forbids style attributes, and its colours follow the theme. So
styles become plain attributes, and colours become the style sheet's variables.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from .charts import Chart
from .figure import PAPER_RC, SizeAxis, draw_lines, draw_value_axis, line_id
from .series import Key, Line

WIDE, NARROW = (760, 480), (380, 270)
"""Width and height of the page's drawings, in pixels where one is shown full size."""

Name = tuple[Key, tuple[int, ...] | None]
"""A member of a line."""

_SWATCH = (36, 16)
_RC: Any = PAPER_RC | {
    "font.size": 12.5,
    "svg.fonttype": "none",  # text follows the theme and can be read aloud
    "axes.formatter.limits": (-4, 5),
}

_SVG = "{http://www.w3.org/2000/svg}"
_HREF = "{http://www.w3.org/1999/xlink}href"
_STYLES = ("fill", "stroke", "stroke-width", "stroke-dasharray", "text-anchor")
_NUMBER = re.compile(r"-?\d+\.\d+")

# The renderer's greys and white, in the words of the page's style sheet.
_COLOURS = {"#ffffff": "card", "#404040": "text", "#e6e6e6": "rule", "#000000": "quiet"}

_Attributes = dict[str, str]


class Canvas:
    """Draws charts of one size for the page.

    The axes are made once: making them takes matplotlib longer than drawing what they hold. The
    first one is shown. `ids` has a name for the page's script of each member that can be chosen.
    """

    def __init__(
        self, size: tuple[int, int], axes: Sequence[SizeAxis], ids: Mapping[Name, str]
    ) -> None:
        self._ids = ids
        width, height = size
        box = (54 / width, 46 / height, (width - 72) / width, (height - 62) / height)
        with matplotlib.rc_context(_RC):
            self._figure = _figure(size)
            self._frame = self._figure.add_axes(box, frameon=False)
            self._frame.xaxis.set_visible(False)
            self._frame.tick_params(length=0)
            self._units = []
            for axis in axes:
                name = f"unit-{axis.unit}"
                own = self._figure.add_axes(box, sharey=self._frame, frameon=False, gid=name)
                whole = axis.unit == "layers"
                marks = MaxNLocator(width // 90, steps=[1, 2, 2.5, 5, 10], integer=whole)
                own.xaxis.set_major_locator(marks)
                own.yaxis.set_visible(False)
                self._units.append((axis, own))

    def draw(self, chart: Chart, prefix: str) -> Markup:
        """What the `<svg>` element of a chart holds.

        Each marker has the class `point`, and as `data-p` its place among the chart's points. The
        prefix makes the ids of markers unique within the page.
        """
        marks: dict[str, list[_Attributes]] = {}
        points = [(line, point) for line in chart.lines for point in line.points]
        with matplotlib.rc_context(_RC), warnings.catch_warnings():
            # The reader's browser has the letters that matplotlib's font lacks.
            warnings.filterwarnings("ignore", message="Glyph|Matplotlib currently does not support")
            draw_value_axis(self._frame, chart)
            for axis, own in self._units:
                for artist in (*own.lines, *own.texts):
                    artist.remove()
                draw_lines(own, chart, axis, page=True)
                own.axhline(self._frame.get_ylim()[0], color="0.25", linewidth=1)
                for number, (line, point) in enumerate(points):
                    if axis.place(point) is not None:
                        mark = {"class": "point", "data-p": str(number)}
                        if member := self._ids.get((line.key, point.member)):
                            mark["data-member"] = member
                        marks.setdefault(line_id(line, axis), []).append(mark)
            return _markup(self._figure, prefix, marks)


def swatch(line: Line) -> Markup:
    """A line and its marker for the page's legend, 36 by 16 pixels."""
    with matplotlib.rc_context(_RC):
        figure = _figure(_SWATCH)
        look: Any = {"color": line.style.color, "linewidth": 2, "linestyle": line.style.dash}
        if line.key.connected:
            figure.add_artist(Line2D([0.02, 0.98], [0.5, 0.5], **look))
        mark: Any = look | {"marker": line.style.marker, "markersize": 9}
        figure.add_artist(Line2D([0.5], [0.5], markeredgecolor="white", **mark))
        return _markup(figure, f"s{line.index}", {})


def _figure(size: tuple[int, int]) -> Figure:
    """A figure of so many pixels, without a ground."""
    figure = Figure(figsize=(size[0] / 72, size[1] / 72), dpi=72)
    figure.patch.set_visible(False)
    return figure


def _markup(figure: Figure, prefix: str, marks: Mapping[str, Sequence[_Attributes]]) -> Markup:
    """A drawing at 72 dots per inch, without matplotlib's styles and ids.

    A group id with a hyphen, such as `unit-bytes`, becomes a class `unit` and `data-unit="bytes"`.
    All other ids but those of markers are dropped. `marks` has by group id the attributes of each
    marker in it.
    """
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    root = ElementTree.fromstring(text.getvalue())
    nodes = _Reader(prefix, marks).children(root)
    return Markup("".join(ElementTree.tostring(node, encoding="unicode") for node in nodes))


class _Reader:
    def __init__(self, prefix: str, marks: Mapping[str, Sequence[_Attributes]]) -> None:
        self.prefix, self.marks = prefix, marks
        self.markers: dict[str, Element] = {}
        self.points: Iterator[_Attributes] = iter(())
        self.units = 0

    def children(self, element: Element) -> list[Element]:
        return [node for child in element for node in self.nodes(child)]

    def nodes(self, element: Element) -> list[Element]:
        tag = element.tag.removeprefix(_SVG)
        if tag in ("metadata", "style", "clipPath"):
            return []
        if tag == "g":
            return self.group(element)
        found = Element(tag)
        found.text = (element.text or "").strip()
        found.extend(self.children(element))
        if tag == "defs":
            return [found] if len(found) else []
        found.attrib |= {n: _short(element.attrib[n]) for n in ("x", "y") if n in element.attrib}
        if tag == "use":
            marker = self.markers[element.attrib[_HREF][1:]]
            # All uses of a marker have one style.
            marker.attrib |= _style(element)
            found.attrib |= {"href": f"#{marker.attrib['id']}"} | next(self.points, {})
            return [found]
        found.attrib |= _style(element)
        if tag == "path":
            found.set("d", _short(" ".join(element.attrib["d"].split())))
        if "id" in element.attrib:
            found.set("id", f"{self.prefix}-{len(self.markers)}")
            self.markers[element.attrib["id"]] = found
        return [found]

    def group(self, element: Element) -> list[Element]:
        """A group with an id of ours, or the children of any other group."""
        name = element.get("id", "")
        if name in self.marks:
            self.points = iter(self.marks[name])
        children = self.children(element)
        kind, hyphen, rest = name.partition("-")
        if not hyphen or not children:
            return children
        found = Element("g", {"class": kind, f"data-{kind}": rest})
        found.extend(children)
        if kind == "unit" and self.units:
            found.set("hidden", "")
        self.units += kind == "unit"
        return [found]


def _style(element: Element) -> _Attributes:
    """The styles as attributes, in which colours are variables of the style sheet."""
    entries = (entry.partition(":") for entry in element.get("style", "").split(";"))
    found = {name.strip(): value.strip() for name, _, value in entries}
    return {
        name: f"var(--{_COLOURS.get(value, f'c{value[1:]}')})" if value[0] == "#" else value
        for name in _STYLES
        if (value := found.get(name))
    }


def _short(numbers: str) -> str:
    return _NUMBER.sub(lambda number: f"{float(number[0]):.1f}".removesuffix(".0"), numbers)
