"""The pictures of the report: small tables in, inline SVG out.

Belongs here: geometry, and figures as people read them. Does not: what is shown in which order (the template),
colours (its style sheet: everything drawn carries a class) or any judgement. Drawn by hand because the offline
chart libraries weigh about 30 MB and take seconds. Every picture has a title and a description for those who do not
see it, nothing is told by colour alone, and every text is escaped. Ratios are floats, amounts never.
"""

import unicodedata
from collections.abc import Iterable
from decimal import Decimal
from itertools import groupby
from typing import Any

from markupsafe import Markup

from pipeline.core.billing_period import BillingPeriod
from pipeline.core.money import MINOR_UNIT_EXPONENT, SYMBOL
from pipeline.core.verdict import WHOLE_RUN, Table

__all__ = [
    "amount_shapes",
    "cohort_name",
    "compact_minor",
    "drift",
    "month_name",
    "recall",
    "repeats",
    "share_text",
    "totals",
]

NO_BREAK = "\N{NO-BREAK SPACE}"
KIND_TITLES = {"issuer": "Issuer", "payment_method": "Payment method", "plan": "Plan"}
LABEL_COLUMNS = 24  # a cohort's name beyond this many Latin letters is cut: it would run into its bar
ROOMY_ROWS = 6  # earlier months that get two lines each; with more, one line keeps the picture on one screen
DRIFT_CLIP = 1.0  # bars end at 100 %: one tiny cohort must not flatten all the others; the figure beside it is whole


def share_text(share: float | None, *, signed: bool = False) -> str:
    """A share as a person reads it: 0.9964 is `99.6 %`; never rounded to none or to all when it is neither."""
    if share is None:
        return "not judged"
    size = abs(share)
    if signed:
        return f"{share * 100:+,.1f}{NO_BREAK}%"
    if 0 < size < 0.0005:
        return f"under 0.1{NO_BREAK}%"
    if 0.9995 <= size < 1:
        return f"over 99.9{NO_BREAK}%"
    return f"{share * 100:,.{0 if size in (0, 1) else 1}f}{NO_BREAK}%"


def compact_minor(amount_minor: int, currency: str, *, symbol: bool = True) -> str:
    """An amount to three figures, for a place with no room: `NT$1.54bn`, `-₩52.3k`."""
    figure = Decimal(abs(amount_minor)).scaleb(-MINOR_UNIT_EXPONENT.get(currency, 0))
    scales = (("tn", 12), ("bn", 9), ("M", 6), ("k", 3))
    letters, exponent = next((scale for scale in scales if figure >= 10 ** scale[1]), ("", 0))
    figure = figure.scaleb(-exponent)
    places = max(0, 3 - len(str(int(figure))))
    digits = f"{figure:.{places}f}"
    digits = digits.rstrip("0").rstrip(".") if "." in digits else digits
    mark = SYMBOL.get(currency, currency + NO_BREAK) if symbol else ""
    return f"{'-' if amount_minor < 0 else ''}{mark}{digits}{letters}"


def month_name(period: str) -> str:
    """`2005-09` as `September 2005`; anything else as it is."""
    try:
        parsed = BillingPeriod.parse(period)
    except ValueError:
        return period
    return f"{parsed.month_name} {parsed.year}"


def cohort_name(cohort: str) -> str:
    """`run` as `Whole run`, `payment_method:check_card` as `check_card`: the kind is said by the heading above."""
    return "Whole run" if cohort == WHOLE_RUN else cohort.partition(":")[2] or cohort


def repeats(rows: Table, *, chart_id: str, flagged: bool) -> Markup:
    """Share of amounts identical to those of each earlier month, one cohort's rows of `Charts.repeats`, a bar each.

    The natural level is a mark across the bar; `flagged` says that a finding is about this cohort's repeats,
    and its longest bar is drawn as the offender.
    """
    width, left, right = 480, 102, 158
    roomy = len(rows) <= ROOMY_ROWS
    row_height = 40 if roomy else 26
    plot = width - left - right
    where = left + plot + 10
    judged = [row["repeat_share"] for row in rows if row["repeat_share"] is not None]
    worst = max(judged, default=None) if flagged else None
    bottom = 6 + row_height * len(rows)
    quarters = [left + plot * part / 4 for part in range(5)]
    body = [_line(x, 6, x, bottom, "grid") for x in quarters]
    for index, row in enumerate(rows):
        top = 6 + index * row_height
        share, normal = row["repeat_share"], row["normal_share"]
        body.append(_text(left - 10, top + 17, row["compared_with"], "label", "end"))
        if roomy:
            body.append(_text(left - 10, top + 31, _months_before(row["lag"]), "note", "end"))
        if share is None:
            body.append(_text(left + 8, top + row_height / 2 + 4, "not judged: too few comparable amounts", "note"))
            continue
        offends = worst is not None and share == worst
        body.append(_bar(left, top + 5, plot * share, row_height - 10, "bad" if offends else "plain"))
        if normal is not None:
            body.append(_line(left + plot * normal, top + 2, left + plot * normal, top + row_height - 2, "natural"))
        body.append(_text(where, top + 17, share_text(share), "value bad" if offends else "value"))
        natural = f"normally {share_text(normal)}" if normal is not None else ""
        if roomy:
            body.append(_text(where, top + 31, ", ".join(filter(None, [f"of {row['comparable']:,}", natural])), "note"))
        else:
            body.append(_text(where + 54, top + 17, natural, "note"))
    body += [_text(x, bottom + 16, f"{part * 25}{NO_BREAK}%", "note", "middle") for part, x in enumerate(quarters)]
    cohort = cohort_name(rows[0]["cohort"]) if rows else "no cohort"
    told = "; ".join(
        f"{row['compared_with']}: {share_text(row['repeat_share'])}, normally {share_text(row['normal_share'])}"
        for row in rows
    )
    return _svg(chart_id, width, bottom + 24, f"Amounts repeated from earlier months, {cohort}", told, body)


def amount_shapes(table: Table, currency: str) -> list[dict[str, Any]]:
    """This run's amounts over each earlier month's, as outlines: one small picture per earlier month, latest first.

    Each item has `period`, `moved` (share of bills that would have to change band to turn one month's shape
    into the other's: 0 is the very same shape) and `svg`. With no history, one picture of this run alone
    with `moved` None.
    """
    months = {period: list(rows) for period, rows in groupby(table, key=lambda row: row["billing_period"])}
    if not months:
        return []
    this = list(months)[-1]
    bins = sorted({(row["low_minor"], row["high_minor"]) for row in table})
    shapes = {period: _shares(rows, bins) for period, rows in months.items()}
    tallest = max((max(shape) for shape in shapes.values()), default=0) or 1
    earlier = [period for period in reversed(months) if period != this]
    pictures = []
    for period in earlier or [None]:
        other = shapes[period] if period else None
        moved = sum(abs(a - b) for a, b in zip(shapes[this], other, strict=True)) / 2 if other else None
        title = f"Bills by amount, {this}" + (f" over {period}" if period else "")
        svg = _shape_panel(f"chart-amounts-{period or 'run'}", title, shapes[this], other, bins, tallest, currency)
        pictures.append({"period": period, "moved": moved, "svg": svg})
    return pictures


def drift(rows: Table, *, flagged: Iterable[str] = ()) -> Markup:
    """Each cohort's total against the month before, rows of `Charts.drift`; `flagged` names cohorts with a finding."""
    width, row_height, left, right = 560, 22, 192, 84
    plot = width - left - right
    drifts = [_clipped(row["total_drift"]) for row in rows if row["total_drift"] is not None]
    low, high = min([0.0, *drifts]), max([0.0, *drifts])
    span = (high - low) or 1.0
    zero = left + plot * -low / span
    flagged = set(flagged)
    top, body, bars = 4, [], []
    for kind, group in groupby(rows, key=lambda row: row["cohort"].partition(":")[0]):
        if kind in KIND_TITLES:
            body.append(_text(0, top + 24, KIND_TITLES[kind], "heading"))
            top += 30
        for row in group:
            offends = row["cohort"] in flagged
            name = ("▲ " if offends else "") + _shortened(cohort_name(row["cohort"]))
            bars.append(_text(left - 12, top + 15, name, "label bad" if offends else "label", "end"))
            share = row["total_drift"]
            if share is not None:
                length = plot * _clipped(share) / span
                bars.append(_bar(min(zero, zero + length), top + 4, abs(length), 14, "bad" if offends else "plain"))
            look = "note" if share is None else "value bad" if offends else "value"
            bars.append(_text(width, top + 15, share_text(share, signed=True), look, "end"))
            top += row_height
    whole = next((row["total_drift"] for row in rows if row["cohort"] == WHOLE_RUN), None)
    if whole is not None:
        at = zero + plot * _clipped(whole) / span
        body.append(_line(at, 4, at, top + 4, "whole"))
    body.append(_line(zero, 4, zero, top + 4, "axis"))
    told = "; ".join(f"{cohort_name(row['cohort'])} {share_text(row['total_drift'], signed=True)}" for row in rows)
    title = "Change of the billed total against the month before, by cohort"
    return _svg("chart-drift", width, top + 10, title, told, body + bars)


def totals(rows: Table, currency: str) -> Markup:
    """Billed total per month, rows of `Charts.totals`, this run last; unverified months are drawn hollow."""
    width, height, ground, head = 560, 236, 190, 26
    values = [row["total_minor"] for row in rows]
    low, high = min([0, *values]), max([0, *values])
    span = (high - low) or 1
    step = width / max(len(rows), 5)
    zero = head + (ground - head) * high / span
    body = [_line(0, zero, step * len(rows), zero, "axis")]
    for index, row in enumerate(rows):
        x, wide = index * step + step * 0.16, step * 0.68
        tall = (ground - head) * row["total_minor"] / span
        look = {"this run": "this", "unverified": "hollow"}.get(row["standing"], "plain")
        top = min(zero, zero - tall)
        body.append(_bar(x, top, wide, abs(tall), look))
        figure = compact_minor(row["total_minor"], currency, symbol=False)
        body.append(_text(x + wide / 2, top - 7, figure, "value this" if look == "this" else "value", "middle"))
        year, _, month = row["billing_period"].partition("-")
        name = month_name(row["billing_period"])[:3] if month else row["billing_period"]
        body.append(_text(x + wide / 2, ground + 18, name, "label", "middle"))
        if look == "this":
            body.append(_text(x + wide / 2, ground + 34, "this run", "note this", "middle"))
        elif index == 0 or month == "01":
            body.append(_text(x + wide / 2, ground + 34, year, "note", "middle"))
    told = "; ".join(
        f"{row['billing_period']} ({row['standing']}): {compact_minor(row['total_minor'], currency)},"
        f" {row['charges']:,} bills"
        for row in rows
    )
    return _svg("chart-totals", width, height, "Billed total per month", told, body)


def recall(rows: Table, *, first: str) -> Markup:
    """Share of wrong months that each contender held, by how many customers were hit.

    Args:
        rows: `contender, size, tried, held`, a size's rows together; a row's bar is drawn in full colour for the contender `first`.
    """
    width, row_height, left, right, top = 640, 20, 110, 128, 4
    plot = width - left - right
    body, bars = [], []
    for size, group in groupby(rows, key=lambda row: row["size"]):
        bars.append(_text(8, top + 16, f"{share_text(size)} of customers hit", "heading"))
        top += 24
        for row in group:
            share = row["held"] / row["tried"]
            look = "this" if row["contender"] == first else "plain"
            bars.append(_text(left - 10, top + 14, row["contender"], "label", "end"))
            bars.append(_bar(left, top + 3, plot * share, row_height - 6, look))
            figure = f"{row['held']:,} of {row['tried']:,}"
            bars.append(_text(left + plot + 10, top + 14, f"{share_text(share)} ({figure})", f"value {look}"))
            top += row_height
        top += 8
    body += [_line(left + plot * part / 4, 24, left + plot * part / 4, top, "grid") for part in range(5)]
    told = "; ".join(f"{share_text(row['size'])}, {row['contender']}: {row['held']} of {row['tried']}" for row in rows)
    return _svg("chart-recall", width, top + 4, "Wrong months held, by the share of customers hit", told, body + bars)


def _shape_panel(
    chart_id: str,
    title: str,
    shape: list[float],
    other: list[float] | None,
    bins: list[tuple[int, int]],
    tallest: float,
    currency: str,
) -> Markup:
    width, height, ground, head = 330, 150, 124, 6
    wide = width / len(bins)

    def outline(shares: list[float]) -> str:
        tops = (ground - (ground - head) * share / tallest for share in shares)
        steps = "".join(f"V{top:.1f}H{index * wide:.1f}" for index, top in enumerate(tops, start=1))
        return f"M0,{ground}{steps}V{ground}"

    body = []
    if other:
        body.append(Markup('<path class="shape earlier" d="{}Z"/>').format(outline(other)))
    body.append(Markup('<path class="shape this" d="{}"/>').format(outline(shape)))
    body.append(_line(0, ground, width, ground, "axis"))
    for index, text in _ticks(bins, currency, wide):
        body.append(_line(index * wide, ground, index * wide, ground + 4, "axis"))
        body.append(_text(index * wide, ground + 17, text, "note", "middle" if 0 < index < len(bins) - 2 else "start"))
    told = "The share of bills in each band of amounts; the figures are in the table below."
    return _svg(chart_id, width, height, title, told, body)


def _ticks(bins: list[tuple[int, int]], currency: str, wide: float) -> list[tuple[int, str]]:
    """Band edges worth a label: zero and whole powers of ten, as many as fit side by side.

    A negative band mirrors a positive one, so its round figure is at its right edge.
    """
    room = 38  # pixels that the longest label, such as -100k, needs with some air
    chosen: list[tuple[int, str]] = []
    edges = [(i, low) if low >= 0 else (i + 1, high - 1) for i, (low, high) in enumerate(bins)]
    zero = next((index for index, low in edges if low >= 0), 0)
    for index, amount in sorted(edges, key=lambda edge: (abs(edge[0] - zero), edge[1] != 0)):
        round_figure = not amount or str(abs(amount)).rstrip("0") == "1"
        if round_figure and all(abs(index - taken) * wide >= room for taken, _ in chosen):
            chosen.append((index, compact_minor(amount, currency, symbol=False)))
    return sorted(chosen)


def _shares(rows: Table, bins: list[tuple[int, int]]) -> list[float]:
    counts = {(row["low_minor"], row["high_minor"]): row["count"] for row in rows}
    total = sum(counts.values()) or 1
    return [counts.get(edges, 0) / total for edges in bins]


def _clipped(share: float) -> float:
    return max(-DRIFT_CLIP, min(DRIFT_CLIP, share))


def _months_before(lag: int) -> str:
    return "the month before" if lag == 1 else f"{lag} months before"


def _shortened(name: str) -> str:
    """`name` cut to `LABEL_COLUMNS`; a Korean or Chinese character is as wide as two Latin letters."""
    taken = 0
    for index, character in enumerate(name):
        taken += 2 if unicodedata.east_asian_width(character) in "WF" else 1
        if taken > LABEL_COLUMNS:
            return name[: max(index - 1, 1)] + "…"
    return name


def _svg(chart_id: str, width: float, height: float, title: str, description: str, body: Iterable[Markup]) -> Markup:
    return Markup(
        '<svg class="chart" viewBox="0 0 {w:g} {h:g}" role="img" aria-labelledby="{id}-title {id}-desc">'
        '<title id="{id}-title">{title}</title><desc id="{id}-desc">{description}</desc>{body}</svg>'
    ).format(w=width, h=height, id=chart_id, title=title, description=description, body=Markup("").join(body))


def _text(x: float, y: float, text: str, look: str, anchor: str = "start") -> Markup:
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(look, x, y, anchor, text)


def _bar(x: float, y: float, width: float, height: float, look: str) -> Markup:
    """A bar is never thinner than a hair: what is small must still be seen to be there."""
    return Markup('<rect class="bar {}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" rx="2"/>').format(
        look, x, y, max(width, 1.0), max(height, 1.0)
    )


def _line(x1: float, y1: float, x2: float, y2: float, look: str) -> Markup:
    return Markup('<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>').format(look, x1, y1, x2, y2)
