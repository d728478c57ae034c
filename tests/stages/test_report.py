"""The page an analyst reads: what it must say, and what must never be on it.

`python -m tests.stages.test_report` writes the golden page anew after a wanted change; read the difference before
committing it.
"""

import re
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pipeline.core.verdict import (
    Cause,
    Charts,
    Finding,
    HistoryUsed,
    NotJudged,
    Quarantine,
    Verification,
)
from pipeline.report import render, write, write_index

GOLDEN = Path(__file__).parent.parent / "golden" / "report.html"

SCRIPT = "<script>alert(1)</script>"
CARD = "4111 1111 1111 1111"  # the test number every acquirer publishes; passes Luhn's check
TOKEN = "tok_9f8e7d6c5b4a"
PHONE = "010-1234-5678"

JULY = "99.6 % of 25,794 comparable amounts are those of 2023-07 (normally 0.5 %): July's charges in September's run"


def finding(cohort: str, severity: str = "critical", rule: str = "repeat_share") -> Finding:
    return Finding(rule, severity, cohort, "99.6 %", "at most 10 %", f"{cohort}: {JULY}", "near certain")


COHORTS = ["run", "issuer:한빛카드", "issuer:Alder", "payment_method:check_card", "plan:5G_STANDARD"]
MONTHS = ["2023-06", "2023-07", "2023-08", "2023-09"]
BANDS = [(-99, -49), (0, 1), (10_000, 20_000), (20_000, 50_000)]

FILE = {
    "name": "charges-alder.parquet", "row_count": 30_000, "control_total_minor": 1_569_000_000, "manifest_row_count": 30_000,
    "manifest_control_total_minor": None,
}  # fmt: skip

RULE = {
    "rule": "repeat_share", "severity": "critical", "description": "Amounts are not an earlier month's",
    "expected": "at most 10 %", "judged": 5, "failed": 2, "not_judged": 0,
}  # fmt: skip

HISTORY = [
    HistoryUsed("2023-08", "2023-08-aaaaaaaaaaaa", "released"),
    HistoryUsed("2023-07", "2023-07-bbbbbbbbbbbb", "corrected"),
    HistoryUsed("2023-06", "2023-06-cccccccccccc", "unverified"),
]

MEASURES = {"zero_count": 2_008, "negative_count": 590, "new_count": 310, "missing_count": 295}

PROFILE = [
    {"cohort_kind": "run", "cohort": "", "positive_count": 27_402, "account_count": 30_000, "positive_minor": 1_570_000_000} | MEASURES,
    {"cohort_kind": "issuer", "cohort": "Alder", "positive_count": 9_402, "account_count": 10_000, "positive_minor": 570_000_000}
    | MEASURES,
]  # fmt: skip

QUARANTINE = Quarantine(
    file="quarantine.parquet",
    rows=2,
    counts=[{"reason": "over_limit", "rows": 2}],
    sample=[{
        "reason": "over_limit", "source_file": "charges-alder.parquet", "source_row": 17, "charge_id": "2023-09-C0000017",
        "customer_id": "C0000017", "column": "amount_minor", "detail": "9000000",
    }],
)  # fmt: skip


def drawn() -> Charts:
    """Charts of a month that repeats the one before last."""
    return Charts(
        amounts=[
            {"billing_period": month, "low_minor": low, "high_minor": high, "count": 100 * (i + 1) + (j % 2)}
            for j, month in enumerate(MONTHS)
            for i, (low, high) in enumerate(BANDS)
        ],
        totals=[
            {"billing_period": month, "charges": 30_000 + i, "total_minor": 1_500_000_000 + 23_000_000 * i}
            | {"standing": ["unverified", "corrected", "released", "this run"][i]}
            for i, month in enumerate(MONTHS)
        ],
        drift=[
            {
                "cohort": cohort,
                "total_minor": 100 + i,
                "previous_total_minor": 100,
                "total_drift": i / 100 if i else None,
            }
            for i, cohort in enumerate(COHORTS)
        ],
        repeats=[
            {"cohort": cohort, "compared_with": MONTHS[3 - lag], "lag": lag, "comparable": 25_794, "repeated": 25_691}
            | {"repeat_share": {1: 0.004, 2: 0.996, 3: None}[lag], "normal_share": 0.005}
            for cohort in COHORTS
            for lag in (1, 2, 3)
        ],
    )


CAUSE = Cause(
    name="earlier_month",
    title="amounts of an earlier month",
    confidence="near certain",
    severity="critical",
    cohorts=["run"],
    affected=24_907,
    amount_minor=None,
    evidence=["whole run: 100.0 % of 24,907 comparable amounts are those of 2023-07 (normally 0.3 %)"],
    rules=["repeat_share"],
    check="Which month's extract did the billing job read?",
)


def held_run() -> Verification:
    """September with July's amounts for two issuers, one of them named in Korean."""
    return Verification(
        run_id="2023-09-1a2b3c4d5e6f",
        billing_period="2023-09",
        source="charges",
        currency="KRW",
        row_count=30_000,
        control_total_minor=1_569_000_000,
        files=[FILE],
        as_of="2023-09-11T02:10:00+09:00",
        decision="hold",
        releasable=[],
        causes=[CAUSE],
        findings=[
            finding("run"),
            finding("issuer:한빛카드"),
            finding("plan:5G_STANDARD", "warning", "total_drift"),
        ],
        not_judged=[NotJudged("wrong_tax", cohort, "the file has no tax_minor") for cohort in COHORTS],
        rules=[RULE],
        suite_digest="5e" * 32,
        history=HISTORY,
        profile=PROFILE,
        lags=[],
        signals=[],
        charts=drawn(),
        quarantine=QUARANTINE,
        data_docs="data_docs/index.html",
        seconds={"profile": 1.25, "judge": 0.75},
    )


class Page(HTMLParser):
    """What a browser would make of a page: its elements, and its text without style sheets."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._in_style = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._in_style = tag == "style"

    def handle_endtag(self, tag: str) -> None:
        self._in_style = False

    def handle_data(self, data: str) -> None:
        if not self._in_style:
            self.text += data

    def tags(self) -> set[str]:
        return {tag for tag, _ in self.elements}


def test_a_held_run_reads_as_the_golden_page():
    assert render(held_run()) == GOLDEN.read_text(encoding="utf-8"), __doc__


def test_the_page_can_be_built_from_the_stored_verification_alone(tmp_path):
    held_run().save(tmp_path)
    page = write(Verification.load(tmp_path), tmp_path / "report.html")
    assert page.read_text(encoding="utf-8") == render(held_run())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "verification.json"]


def test_verdict_cause_stakes_and_next_step_come_before_everything_else():
    text = Page(render(held_run())).text
    order = [
        text.index(part) for part in ("September 2023: held", "Amounts of an earlier month", "27,402", "₩1,570,000,000")
    ]
    order += [text.index(part) for part in ("makegood verify --source charges --period 2023-09", "makegood run decide")]
    assert order == sorted(order)
    assert order[-1] < text.index("This run against its history")


def test_what_may_go_is_not_counted_among_what_is_held():
    text = Page(render(replace(held_run(), releasable=["issuer:Alder"]))).text
    assert "May go as they are: Alder." in text
    assert "18,000" in text and "₩1,000,000,000" in text


def test_planted_markup_stays_text():
    run = held_run()
    repeats = [row | {"cohort": f"issuer:{SCRIPT}"} for row in run.charts.repeats[:3]]
    planted = replace(
        run,
        source=f'"{SCRIPT}',
        findings=[finding(f"issuer:{SCRIPT}")],
        not_judged=[NotJudged(SCRIPT, f"plan:{SCRIPT}", SCRIPT)],
        data_docs="javascript:alert(1)",
        charts=replace(run.charts, repeats=repeats, drift=[run.charts.drift[1] | {"cohort": f"plan:{SCRIPT}"}]),
        quarantine=replace(run.quarantine, sample=[run.quarantine.sample[0] | {"charge_id": SCRIPT, "detail": SCRIPT}]),
    )
    word = {"person": SCRIPT, "at": run.as_of, "comment": SCRIPT, "reason": SCRIPT, "kind": "release"}
    page = Page(render(planted, reviews=[word], decisions=[word]))
    assert "script" not in page.tags()
    assert page.text.count(SCRIPT) >= 10
    assert not [attrs for _, attrs in page.elements if (attrs.get("href") or "").startswith("javascript:")]
    assert not [name for _, attrs in page.elements for name in attrs if name.startswith("on")]


def test_the_page_fetches_nothing_and_says_so_to_the_browser():
    html = render(held_run(), reviews=[{"person": "kim", "at": "2023-09-11T02:30:00+09:00", "comment": "seen"}])
    page = Page(html)
    links = [attrs[name] for _, attrs in page.elements for name in ("src", "href") if name in attrs]
    assert {"quarantine.parquet", "verification.json", "data_docs/index.html"} <= set(links)
    assert not [link for link in links if re.match(r"(?i)[a-z]+:|//", link)]
    assert not re.search(r"(?i)url\(|@import", html)
    assert not page.tags() & {"script", "link", "iframe", "object", "embed", "img", "base"}
    policy = next(
        attrs["content"] for tag, attrs in page.elements if attrs.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def test_tokens_and_contacts_never_reach_the_page_even_when_the_sample_holds_them():
    run = held_run()
    row = run.quarantine.sample[0] | {"instrument_token": TOKEN, "phone": PHONE}
    html = render(replace(run, quarantine=replace(run.quarantine, sample=[row])))
    assert "C0000017" in html
    assert TOKEN not in html and PHONE not in html


@pytest.mark.parametrize(
    "number", [CARD, CARD.replace(" ", ""), CARD.replace(" ", "-"), "3782 822463 10005", f"x_{CARD}."]
)
def test_card_numbers_are_masked_wherever_they_stand(number):
    run = held_run()
    planted = replace(
        run,
        findings=[finding(f"issuer:{number}")],
        charts=replace(run.charts, drift=[run.charts.drift[1] | {"cohort": f"issuer:{number}"}]),
        quarantine=replace(run.quarantine, sample=[run.quarantine.sample[0] | {"charge_id": number, "detail": number}]),
    )
    html = render(planted, reviews=[{"person": "kim", "at": run.as_of, "comment": f"saw {number}"}])
    bare = re.search(r"\d[\d -]+\d", number).group()
    assert bare not in html
    assert html.count(f"•••• {bare[-4:]}") >= 5


def test_ids_that_are_no_card_numbers_stay_readable():
    run = held_run()
    ids = ["4111111111111112", "2023091100000017", "a4111111111111111"]  # no check digit, no card, inside a word
    rows = [run.quarantine.sample[0] | {"charge_id": text} for text in ids]
    html = render(replace(run, quarantine=replace(run.quarantine, sample=rows)))
    assert all(text in html for text in ids)


def test_what_could_not_be_judged_is_said_in_the_verdict_and_listed_with_its_reason():
    text = Page(render(held_run())).text
    assert text.index("1 rule could not be judged") < text.index("What to do next")
    listed = text[text.index("What could not be judged") :]
    assert "wrong_tax" in listed and "the file has no tax_minor" in listed and "5 cohorts" in listed


def test_a_first_run_says_that_there_was_nothing_to_compare_with():
    run = held_run()
    first = replace(
        run, decision="release", releasable=["run"], findings=[], history=[],
        charts=Charts(amounts=run.charts.amounts[-4:], totals=run.charts.totals[-1:], drift=[], repeats=[]),
        not_judged=[NotJudged("repeat_share", "run", "no earlier month")],
    )  # fmt: skip
    text = Page(render(first)).text
    assert "There is no earlier month" in text and "no earlier month" in text and "this run alone" in text


def test_history_is_shown_with_its_standing():
    text = Page(render(held_run())).text
    assert "2023-08 (released), 2023-07 (corrected), 2023-06 (unverified)" in text


def test_a_review_appears_with_its_reader_and_comment():
    at = datetime(2023, 9, 11, 2, 30, tzinfo=UTC)
    text = Page(render(held_run(), reviews=[{"person": "kim", "at": at, "comment": "July again"}])).text
    assert "Reviewed by kim on 2023-09-11 02:30 UTC: July again" in text
    assert "Leave a note" not in text


def test_the_page_follows_what_people_decide():
    def word(person: str, kind: str) -> dict[str, str]:
        return {"person": person, "at": "2023-09-11T02:30:00+09:00", "kind": kind, "reason": "checked"}

    def text(*decisions: dict[str, str]) -> str:
        return Page(render(held_run(), decisions=decisions)).text

    assert "September 2023: held" in text(word("kim", "release"))
    assert "One more person" in text(word("kim", "release"))
    assert "September 2023: held" in text(word("kim", "release"), word("kim", "release")), "one person counts once"
    assert "released by two people" in text(word("kim", "release"), word("lee", "release"))
    assert "makegood release" in text(word("kim", "release"), word("lee", "release"))
    rejected = text(word("kim", "release"), word("lee", "release"), word("park", "reject"))
    assert "September 2023: rejected" in rejected and "makegood release" not in rejected


def test_what_became_of_the_charges_is_shown():
    outcome = {"charged": 27_000, "declined": 390, "unknown": 12, "not_sent": 0, "amount_minor": 1_500_000_000}
    text = Page(render(held_run(), outcome=outcome)).text
    assert "27,000 charges succeeded: ₩1,500,000,000. 390 charges declined." in text
    assert "12 charges without an answer" in text
    assert "What to do next" not in text and "Nothing was sent" not in text


def test_every_picture_has_a_name_and_words_for_those_who_do_not_see_it():
    html = render(held_run())
    pictures = re.findall(r'<svg class="chart".*?</svg>', html, re.DOTALL)
    assert len(pictures) == 6  # repeats of the run, totals, drift, amounts over three months
    names = [re.search(r'aria-labelledby="(\S+) (\S+)"', picture).groups() for picture in pictures]
    assert len(set(names)) == len(names)
    for picture, (title, desc) in zip(pictures, names, strict=True):
        assert re.search(rf'<title id="{title}">[^<]+</title><desc id="{desc}">[^<]+</desc>', picture)


def test_the_index_lists_every_verdict_newest_first(tmp_path):
    (tmp_path / "reports").mkdir()

    def entry(period: str, day: int, decision: str, charged: bool) -> dict:
        return {
            "run_id": f"{period}-1a2b3c4d5e6f", "billing_period": period, "decision": decision, "row_count": 30_000,
            "report": f"reports/{period}-1a2b3c4d5e6f/report.html", "verified_at": datetime(2023, 9, day, tzinfo=UTC),
            "releasers": None, "charged": charged, "reviewed": False, "headline": SCRIPT,
        }  # fmt: skip

    index = write_index(
        tmp_path / "reports", [entry("2023-08", 1, "release", True), entry("2023-09", 11, "hold", False)]
    )
    page = Page(index.read_text(encoding="utf-8"))
    links = [attrs["href"] for tag, attrs in page.elements if tag == "a"]
    assert links == ["2023-09-1a2b3c4d5e6f/report.html", "2023-08-1a2b3c4d5e6f/report.html"]
    assert page.text.index("Held") < page.text.index("Charged")
    assert "script" not in page.tags() and SCRIPT in page.text


if __name__ == "__main__":
    GOLDEN.write_text(render(held_run()), encoding="utf-8")
