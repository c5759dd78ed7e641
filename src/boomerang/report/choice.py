"""The part of the page that answers: which size for my budget?"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from ..sizing import OVERHEAD
from ..units import show_bytes, show_count_briefly
from .budget import Candidate, Choices
from .charts import Chart
from .lines import Line
from .scale import bytes_unit
from .words import better_and_smaller, in_context


def choice_html(choices: Sequence[Choices], labels: Sequence[str]) -> str:
    """The controls, which need the script, and a table for those without it.

    Args:
        choices: What can be chosen from; may be empty.
        labels: What each is called.
    """
    heading = '<section class="card choice"><h2>Which size for my budget?</h2>'
    if not choices:
        return f'{heading}<p class="note">No member of a family was measured.</p></section>'
    tables = "".join(map(_table, choices, labels))
    notes = "".join(map(_unmeasured, choices, labels))
    return (
        f"{heading}<noscript><p>With JavaScript there is a slider here. Without it, the largest "
        f"size that fits is the last line whose memory you have.</p>{tables}</noscript>"
        f"<div data-script hidden>{_controls(choices, labels)}</div>{notes}</section>"
    )


def _unmeasured(one: Choices, label: str) -> str:
    if one.everything is None or len(one.candidates) >= one.everything:
        return ""
    return (
        f'<p class="note">{escape(label)}: of {one.everything} sizes {len(one.candidates)} were '
        "measured, and only those are offered.</p>"
    )


def choice_data(one: Choices, headline: Chart) -> dict[str, Any]:
    """What the page's script needs of a family.

    Args:
        one: The family.
        headline: The chart whose values are told beside the choice.
    """
    largest = max(each.memory(one.context or 1) for each in one.candidates)
    line = next((line for line in headline.lines if line.key == one.key), None)
    return {
        "unit": bytes_unit(largest),
        "context": one.context,
        "members": [_member(one, each, headline, line) for each in one.candidates],
    }


def _member(one: Choices, each: Candidate, headline: Chart, line: Line | None) -> dict[str, Any]:
    points = () if line is None else line.points
    index = next((i for i, point in enumerate(points) if point.member == each.member), None)
    quality = rival = ""
    if line is not None and index is not None:
        quality = in_context(headline, line, points[index])
        rival = better_and_smaller(headline, points, index)
    last = one.candidates[-1].patch
    return {
        "layers": each.layers,
        "weights": each.weights,
        "cache": [(cache.window, cache.bytes_per_token) for cache in each.cache],
        "about": f"Patch {each.patch} of {last}, {show_count_briefly(each.parameters)} parameters.",
        "quality": quality,
        "rival": rival,
        "command": each.command,
    }


def _controls(choices: Sequence[Choices], labels: Sequence[str]) -> str:
    family = ""
    if len(choices) > 1:
        options = "".join(
            f'<option value="{i}">{escape(label)}</option>' for i, label in enumerate(labels)
        )
        family = f'<label class="whole">Family<select id="family">{options}</select></label>'
    parts = (
        ("weights", "Weights"),
        ("cache", "KV cache"),
        ("workspace", f"Workspace, {OVERHEAD:.0%}"),
    )
    bar = "".join(f'<i class="{name}" id="bar-{name}"></i>' for name, _ in parts)
    rows = "".join(
        f'<i class="{name}"></i><span>{words}</span><b id="part-{name}"></b>'
        for name, words in parts
    )
    return (
        f'<div class="fields">{family}'
        '<label>Memory<span class="with-unit"><input id="budget" type="number" min="0" step="any" '
        'inputmode="decimal"><span id="budget-unit"></span></span></label>'
        '<label id="context-field">Context<span class="with-unit"><input id="context" '
        'type="number" min="1" step="1" inputmode="numeric">tokens</span></label></div>'
        '<input id="slider" type="range" aria-label="Memory">'
        '<div class="answer"><div aria-live="polite"><strong id="member"></strong>'
        '<p id="why" class="quiet"></p></div><div id="found">'
        f'<div class="bar" aria-hidden="true">{bar}</div><div class="parts">{rows}'
        '<i></i><span>Needed</span><b id="total"></b></div>'
        '<p id="quality"></p><p id="rival" class="quiet"></p>'
        '<div class="command"><pre><code id="command"></code></pre>'
        '<button id="copy" type="button">Copy the command</button>'
        '<p id="copied" class="quiet" role="status"></p></div></div></div>'
    )


def _table(one: Choices, label: str) -> str:
    context = one.context or 1
    text = f", {context} tokens" if one.context else ""
    rows = "".join(
        f"<tr><td>{show_bytes(each.memory(context))}</td><td>{each.layers}</td>"
        f"<td><code>{escape(each.command)}</code></td></tr>"
        for each in sorted(one.candidates, key=lambda each: each.memory(context))
    )
    return (
        f'<h3>{escape(label)}</h3><div class="scroll"><table><thead><tr><th>Memory{text}</th>'
        f"<th>Layers</th><th>Command</th></tr></thead><tbody>{rows}</tbody></table></div>"
    )
