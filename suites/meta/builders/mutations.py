"""Files as hostile or clumsy hands leave them: cut, doubled, edited, with values of other types."""

from __future__ import annotations

import json

from hypothesis import strategies as st

ODD_VALUES = (
    *(
        None,
        True,
        False,
        0,
        -1,
        3,
        10**400,
        -(2**70),
        1e308,
        5e-324,
        0.5,
        "",
        "x",
        "NaN",
        "Infinity",
        "-Infinity",
        "PASS",
    ),
    *("x" * 5000, "\0", "\n", "<b>&|`*[x](y)", "\ud800", "../../../etc/passwd", "/dev/zero", "yesterday", [], {}, [[]]),
    *([None], {"": None}, {"a": {"b": {}}}, [1, "a", {}]),
)
"""Values that take the place of others. A lone surrogate stands in JSON as an escape."""


@st.composite
def mutated(draw, text):
    """A text after one to three changes of its bytes or, where it is JSON, of its values."""
    for _ in range(draw(st.integers(1, 3))):
        text = draw(st.sampled_from((_changed_bytes, _changed_values)))(draw, text)
    return text


def _changed_bytes(draw, text):
    if not text:
        return "x"
    at, end = (draw(st.integers(0, len(text))) for _ in range(2))
    at, end = min(at, end), max(at, end)
    put = draw(st.sampled_from(("", "0", '"', "{", "[" * 5000, "\0", "\n", "é", "9" * 500, ",", "]]}}")))
    return draw(
        st.sampled_from(
            (
                text[:at],
                text[:at] + text[end:],
                text[:end] + text[at:],
                text[:at] + put + text[at:],
                text[:at] + put + text[min(at + 1, len(text)) :],
            )
        )
    )


def _changed_values(draw, text):
    """Change one value of JSON, or exchange, drop or double an entry. Any other text stays."""
    try:
        plain = json.loads(text)
    except (ValueError, RecursionError):
        return text
    places = [*_places(plain)]
    if not places:
        return text
    holder, key = places[draw(st.integers(0, len(places) - 1))]
    change = draw(st.sampled_from(("odd", "odd", "drop", "exchange", "double", "rename")))
    if change == "odd":
        holder[key] = draw(st.sampled_from(ODD_VALUES))
    elif change == "exchange":
        other, place = places[draw(st.integers(0, len(places) - 1))]
        holder[key] = other[place] if key in (holder if isinstance(holder, dict) else range(len(holder))) else None
    elif change == "drop":
        del holder[key]
    elif isinstance(holder, list):
        holder.append(holder[key])
    else:
        holder[f"{key}_" if change == "double" else ""] = holder[key]
    try:
        return json.dumps(plain)
    except (ValueError, RecursionError):  # an exchange may have put a value into itself
        return text


def _places(plain):
    """Every holder with each of its keys."""
    waiting = [plain]
    while waiting:
        holder = waiting.pop()
        if isinstance(holder, dict | list):
            for key in list(holder) if isinstance(holder, dict) else range(len(holder)):
                yield holder, key
                waiting.append(holder[key])
