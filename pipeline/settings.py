"""The only reader of the environment: where things are and what this company has decided.

Each variable is named in `Settings`, with its default and reason. Nothing else in the project may
look at `os.environ`; a test proves it.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from zoneinfo import ZoneInfo

from pipeline.core.billing_period import BillingCalendar
from pipeline.errors import UsageError

MOST_SECONDS = 86_400.0
"""Longest wait that a setting may ask for: a day."""

PROJECT_ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Settings:
    """One installation's decisions.

    Attributes:
        home: lake, reports, embedded database and practice acquirer (`MAKEGOOD_HOME`, default `data/` here).
        database_url: SQLAlchemy URL of your own PostgreSQL for the pipeline's service login
            (`MAKEGOOD_DATABASE_URL`); None starts the embedded one below `home`.
        source: where the nightly run looks for charge files (`MAKEGOOD_SOURCE`, default `data/sample`).
        timezone: the business time zone in which days begin and windows open (`MAKEGOOD_TIMEZONE`).
        calendar: which period may be charged on a day (`MAKEGOOD_MONTHS_IN_ARREARS`,
            `MAKEGOOD_CHARGE_DAYS` as `first-last`).
        login, password: the person who decides (`MAKEGOOD_LOGIN`, `MAKEGOOD_PASSWORD`); a database login.
        suites: the folder of expectation suites (`MAKEGOOD_SUITES`, default `expectations/suites`).
        answer_seconds: how long a file waits for its answers before its operations are called unknown (`MAKEGOOD_ANSWER_SECONDS`).
        audit_anchor: a second folder for the signed heads of the audit log, best where others look after it
            (`MAKEGOOD_AUDIT_ANCHOR`); None keeps them below `home` alone.
    """

    home: Path
    database_url: str | None
    source: Path
    timezone: ZoneInfo
    calendar: BillingCalendar
    login: str | None
    password: str | None
    suites: Path
    answer_seconds: float
    audit_anchor: Path | None = None

    @classmethod
    def from_environment(cls) -> "Settings":
        """Read the environment.

        Raises:
            UsageError: a variable holds something that cannot be meant.
        """
        env = os.environ
        first, last = _charge_days(env.get("MAKEGOOD_CHARGE_DAYS", "1-31"))
        return cls(
            home=Path(env.get("MAKEGOOD_HOME") or PROJECT_ROOT / "data").expanduser().resolve(),
            database_url=env.get("MAKEGOOD_DATABASE_URL") or None,
            source=Path(env.get("MAKEGOOD_SOURCE") or PROJECT_ROOT / "data" / "sample").expanduser().resolve(),
            timezone=ZoneInfo(env.get("MAKEGOOD_TIMEZONE", "Asia/Seoul")),
            calendar=BillingCalendar(int(env.get("MAKEGOOD_MONTHS_IN_ARREARS", "0")), first, last),
            login=env.get("MAKEGOOD_LOGIN") or None,
            password=env.get("MAKEGOOD_PASSWORD") or None,
            suites=Path(env.get("MAKEGOOD_SUITES") or PROJECT_ROOT / "expectations" / "suites").resolve(),
            answer_seconds=_seconds(env.get("MAKEGOOD_ANSWER_SECONDS", "120")),
            audit_anchor=Path(env["MAKEGOOD_AUDIT_ANCHOR"]).expanduser().resolve()
            if env.get("MAKEGOOD_AUDIT_ANCHOR")
            else None,
        )

    @property
    def lake(self) -> Path:
        return self.home / "lake"

    @property
    def reports(self) -> Path:
        return self.home / "reports"

    @property
    def learned(self) -> Path:
        """Bounds learned from this installation's own months, beside its data: suites may be shared, its past may not."""
        return self.home / "suites" / "learned.json"

    @property
    def acquirer(self) -> Path:
        return self.home / "acquirer"

    @property
    def postgres(self) -> Path:
        return self.home / "postgres"


def armed_failpoint() -> str | None:
    """The fault that a test wants at a point of the money path (`MAKEGOOD_FAILPOINT`); see `failpoints.arm`."""
    return os.environ.get("MAKEGOOD_FAILPOINT") or None


def inherited_environment() -> dict[str, str]:
    """A copy of this process's environment, for programs that it starts."""
    return dict(os.environ)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= MOST_SECONDS:
        raise UsageError(f"MAKEGOOD_ANSWER_SECONDS is a number of seconds, such as 120; not {text!r}")
    return seconds


def _charge_days(text: str) -> tuple[int, int]:
    try:
        first, last = (int(day) for day in text.split("-"))
    except ValueError:
        raise UsageError(f"MAKEGOOD_CHARGE_DAYS is first-last, such as 11-13; not {text!r}") from None
    if not 1 <= first <= last <= 31:
        raise UsageError(f"MAKEGOOD_CHARGE_DAYS {text!r} is no range of days of a month")
    return first, last
