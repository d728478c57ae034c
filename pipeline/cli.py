"""`makegood`: the command line, one small function per command.

Belongs here: arguments, what is printed, exit codes. Does not: incidents (`cli_incident`), practice files (`cli_generate`),
calibration (`cli_calibrate`), the scorecard (`cli_scorecard`), the audit log (`cli_audit`), what people tell the gate (`cli_gate`),
or any work - that is `bootstrap.Makegood`. Progress goes to standard error; with `--json` exactly one JSON object goes to standard
output, also when the command fails.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from pipeline.core.billing_period import BillingPeriod
from pipeline.core.money import format_minor
from pipeline.core.terminal import visible
from pipeline.errors import GateClosed, MakegoodError, UsageError
from pipeline.progress import StageProgress
from pipeline.settings import Settings

EXIT_CODES = """exit codes: 0 done, or released; 3 held, or outside its window;
            2 bad usage, or input that cannot be read faithfully; 1 anything else"""

HELD = GateClosed.exit_code
WAITING = 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    arguments = _parser().parse_args(argv)
    with StageProgress(quiet=arguments.quiet) as progress:
        try:
            result, code = arguments.command(arguments, progress)
        except MakegoodError as error:
            result, code = {"error": str(error), "kind": type(error).__name__}, error.exit_code
        except KeyboardInterrupt:
            result, code = {"error": "interrupted; calling the same command again goes on where it stopped"}, 1
    if arguments.json:
        print(json.dumps(result, ensure_ascii=False, default=str))  # noqa: T201
    elif "error" in result:
        sys.stderr.write(visible(f"makegood: {result['error']}\n"))
    else:
        print(visible(arguments.show(result)))  # noqa: T201
    return code


# -- commands: each returns what --json prints, and the exit code ---------------------------------------------------


SHOWN_FINDINGS = 6
"""Findings that a terminal shows below the causes; the report has all."""


def _verify(arguments: argparse.Namespace, progress: StageProgress) -> tuple[dict, int]:
    app = open_app(arguments, progress)
    period, source = period_of(arguments.period), _source(arguments.source)
    landed = app.extract(source, period, query=_query(arguments.query))
    if landed.run is None:
        names = ", ".join(landed.waiting_for)
        return {"decision": "wait", "waiting_for": list(landed.waiting_for), "findings": [], "releasable": [],
                "explanation": f"{period} is not complete yet: waiting for {names}; nothing was landed"}, WAITING  # fmt: skip
    judged = app.verify(landed.run.run_id, source, query=_query(arguments.query))
    result = judged.verification.to_json(str(judged.report))
    return result, 0 if result["decision"] == "release" else HELD


def _show_verify(result: dict) -> str:
    if result["decision"] == "wait":
        return result["explanation"]
    lines = [f"{result['run_id']}: {'RELEASE' if result['decision'] == 'release' else 'HOLD'}"]
    for cause in result["causes"]:
        lines.append(f"  likely cause: {cause['title']} ({cause['confidence']}). {cause['check']}")
    lines += [f"  [{f['severity']}] {f['explanation']}" for f in result["findings"][:SHOWN_FINDINGS]]
    if len(result["findings"]) > SHOWN_FINDINGS:
        lines.append(f"  and {len(result['findings']) - SHOWN_FINDINGS} more findings, in the report")
    if result["decision"] == "hold" and result["releasable"]:
        lines.append(f"  could go: {', '.join(result['releasable'])}")
    if result["not_judged"]:
        lines.append(f"  {len(result['not_judged'])} checks could not be judged; the report says why")
    return "\n".join([*lines, f"report: {result['report']}"])


def _release(arguments: argparse.Namespace, progress: StageProgress) -> tuple[dict, int]:
    app = open_app(arguments, progress)
    if arguments.dry_run:
        return app.preview_release(arguments.run), 0
    return app.release(arguments.run).to_json(), 0


def _show_release(result: dict) -> str:
    if "due" in result:
        due = result.pop("due")
        lines = [f"{result.pop('run_id')}: a release would charge {due['rows']:,} bills; nothing was sent"]
        return "\n".join(lines + _not_charged(result))
    charged = f" ({format_minor(result['amount_minor'], result['currency'])})" if result["charged"] else ""
    lines = [
        f"{result['run_id']}: {result['charged']:,} charged{charged}, {result['declined']:,} declined,"
        f" {result['unknown']:,} unknown, {result['not_sent']:,} not sent"
    ]
    if result["unknown"]:
        lines.append("  the unknown are looked up when this command is called again; nothing is sent twice")
    return "\n".join(lines + _not_charged(result["not_charged"]))


def _not_charged(classes: dict) -> list[str]:
    return [f"  not charged, {reason.replace('_', ' ')}: {figures['rows']:,}" for reason, figures in classes.items()]


def _decide(arguments: argparse.Namespace, progress: StageProgress) -> tuple[dict, int]:
    kind = "release" if arguments.release else "reject"
    result = open_app(arguments, progress).decide(arguments.run, kind=kind, reason=arguments.reason)
    return result, 0


def _show_decide(result: dict) -> str:
    people = ", ".join(result["released_by"] + result["rejected_by"]) or "nobody"
    return f"{result['run_id']}: {result['state']} (decided by {people})"


def _list_runs(arguments: argparse.Namespace, progress: StageProgress) -> tuple[dict, int]:
    return {"runs": open_app(arguments, progress).register.recent(arguments.limit)}, 0


def _show_runs(result: dict) -> str:
    if not result["runs"]:
        return "no run has been verified here yet"
    return "\n".join(
        f"{r['run_id']}  {r['decision']:8}{'charged' if r['charged'] else 'not charged':12}"
        f"{'reviewed' if r['reviewed'] else '':9} {r['row_count']:>10} rows  {r['report']}{_findings_said(r)}"
        for r in result["runs"]
    )


def _findings_said(run: dict) -> str:
    said = {name: run[f"findings_{name}"] for name in ("accepted", "rejected") if run[f"findings_{name}"]}
    return f"  (findings: {', '.join(f'{count} {name}' for name, count in said.items())})" if said else ""


def _report(arguments: argparse.Namespace, progress: StageProgress) -> tuple[dict, int]:
    app = open_app(arguments, progress)
    path = app.review(arguments.run, arguments.reviewed) if arguments.reviewed else app.render(arguments.run)
    return {"run_id": arguments.run, "report": str(path)}, 0


def _stop(arguments: argparse.Namespace, progress: StageProgress) -> tuple[dict, int]:
    return open_app(arguments, progress).stop(arguments.reason), 0


def _resume(arguments: argparse.Namespace, progress: StageProgress) -> tuple[dict, int]:
    result = open_app(arguments, progress).resume(arguments.reason, arguments.stops)
    return result, HELD if result["stops"] else 0


def _show_sending(result: dict) -> str:
    by = f" by {result['by']}" if "by" in result else ""
    lines = [f"sending is {result['sending']}{by}", *map(_stop_in_words, result.get("stops", []))]
    if result["left"] is None:
        return "\n".join([*lines, "  what is left cannot be said just now; `makegood check` does"])
    left = [f"  {item['scope']}: {item['operations']} {item['state'].replace('_', ' ')}" for item in result["left"]]
    return "\n".join([*lines, *(left or ["  nothing is left to send or look up"])])


def _stop_in_words(stop: dict) -> str:
    why = f" ({stop['reason']})" if stop["reason"] else ""
    lifted = f"lifted by {', '.join(stop['lifted_by'])}; " if stop["lifted_by"] else ""
    missing = stop["needs_people"] - len(stop["lifted_by"])
    return (
        f"  stop {stop['order_id']} of {stop['person']}, {stop['at']:%Y-%m-%d %H:%M %Z}{why}: {lifted}"
        f"{missing} {'person' if missing == 1 else 'different people'} must resume"
    )


def _add_person(arguments: argparse.Namespace, progress: StageProgress) -> tuple[dict, int]:
    return open_app(arguments, progress).add_person(arguments.name, arguments.role, admin_url=arguments.admin_url), 0


def _show_person(result: dict) -> str:
    return f"{result['login']} may log in as {result['role']}; {result['password']}"


def _set_up_database(arguments: argparse.Namespace, progress: StageProgress) -> tuple[dict, int]:
    from pipeline.adapters import postgres

    postgres.set_up(arguments.admin_url, None)
    return {
        "database": "ready",
        "next": "give the logins passwords, then set MAKEGOOD_DATABASE_URL to makegood_pipeline's URL",
    }, 0


def _check(arguments: argparse.Namespace, progress: StageProgress) -> tuple[dict, int]:
    app = open_app(arguments, progress)
    app.audit_log.require_whole()
    stops = [asdict(stop) for stop in app.register.open_stops()]
    return {"audit": "whole", "stops": stops, "left": app.ledger.unfinished(), "balances": app.ledger.balances()}, 0


def _show_check(result: dict) -> str:
    lines = ["the audit log is whole", *map(_stop_in_words, result["stops"])]
    lines += [f"  {b['account']:20} {format_minor(b['balance_minor'], b['currency'])}" for b in result["balances"]]
    lines += [f"  {item['scope']}: {item['operations']} {item['state'].replace('_', ' ')}" for item in result["left"]]
    return "\n".join(lines)


# -- arguments ------------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="makegood",
        description="Catch a wrong bill before it is charged; put it right, to the won, when it was.",
        epilog=f"{EXIT_CODES}\nenvironment: MAKEGOOD_HOME (default: data/ here), MAKEGOOD_DATABASE_URL, MAKEGOOD_LOGIN, MAKEGOOD_PASSWORD",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    # they take their tools from here
    from pipeline import (
        cli_audit,
        cli_calibrate,
        cli_control,
        cli_gate,
        cli_generate,
        cli_incident,
        cli_scorecard,
        cli_sending,
    )

    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_verify(commands)
    _add_release(commands)
    _add_run(commands)
    _add_sending(commands)
    cli_incident.add_commands(commands)
    cli_gate.add_commands(commands)
    cli_control.add_commands(commands)
    cli_control.add_replay(commands)
    cli_sending.add_commands(commands)
    cli_generate.add_commands(commands)
    cli_calibrate.add_commands(commands)
    cli_scorecard.add_commands(commands)
    cli_audit.add_commands(commands)
    _add_administration(commands)
    return parser


def command(
    commands: Any, name: str, run: Callable, show: Callable[[dict], str], *, about: str, examples: str
) -> argparse.ArgumentParser:
    """A command with what all commands have; `run` does it, `show` says for people what `--json` says for programs."""
    parser = commands.add_parser(
        name, help=about, description=about, epilog=f"examples:\n{examples}\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--quiet", action="store_true", help="no progress on standard error")
    parser.set_defaults(command=run, show=show, as_of=None, login=None)
    return parser


def with_clock(parser: argparse.ArgumentParser) -> None:
    """Add `--as-of`."""
    parser.add_argument(
        "--as-of",
        metavar="WHEN",
        help="simulated day or instant (2005-09-11, 2023-09-11T09:00+09:00); practice acquirer only",
    )


def with_login(parser: argparse.ArgumentParser) -> None:
    """Add `--login`."""
    parser.add_argument(
        "--login",
        metavar="NAME",
        help="your database login (or MAKEGOOD_LOGIN); password: MAKEGOOD_PASSWORD",
    )


def _add_verify(commands: Any) -> None:
    parser = command(
        commands, "verify", _verify, _show_verify,
        about="extract one period's charges and judge them against their history; sends nothing",
        examples="  makegood verify --source data/sample --period 2005-09\n"
        "  makegood verify --source postgresql+psycopg://reader@billing/charges --query charges.sql --period 2023-09 --json",
    )  # fmt: skip
    parser.add_argument(
        "--source", required=True, help="folder with billing_period=YYYY-MM/ inside, or a SQLAlchemy URL"
    )
    parser.add_argument("--period", required=True, metavar="YYYY-MM", help="billing period to verify")
    parser.add_argument("--query", metavar="FILE|SQL", help="for a URL: the query, with :billing_period in it")
    with_clock(parser)


def _add_release(commands: Any) -> None:
    parser = command(
        commands, "release", _release, _show_release,
        about="charge what a released run still owes the acquirer: once, canary first, in waves",
        examples="  makegood release --run 2005-09-1a2b3c4d5e6f --as-of 2005-09-11\n"
        "  makegood release --run 2005-09-1a2b3c4d5e6f --dry-run",
    )  # fmt: skip
    parser.add_argument("--run", required=True, metavar="RUN", help="the run_id that verify printed")
    parser.add_argument("--dry-run", action="store_true", help="say what would be charged, send nothing")
    with_clock(parser)


def _add_run(commands: Any) -> None:
    runs = commands.add_parser("run", help="decide on a held run, list runs, open or review a report").add_subparsers(
        required=True, metavar="ACTION"
    )
    decide = command(
        runs, "decide", _decide, _show_decide,
        about="one person's decision on a run; releasing a held one takes two different people",
        examples='  MAKEGOOD_LOGIN=operator makegood run decide 2005-09-1a2b3c4d5e6f --release --reason "price change of 1 September"',
    )  # fmt: skip
    decide.add_argument("run", metavar="RUN")
    choice = decide.add_mutually_exclusive_group(required=True)
    choice.add_argument("--release", action="store_true", help="it may be charged")
    choice.add_argument("--reject", action="store_true", help="it must never be charged")
    decide.add_argument("--reason", required=True, metavar="TEXT", help="why; kept for ever")
    with_login(decide)
    listing = command(
        runs,
        "list",
        _list_runs,
        _show_runs,
        about="runs verified here, newest first",
        examples="  makegood run list --limit 20",
    )
    listing.add_argument("--limit", type=int, default=50)
    report = command(
        runs, "report", _report, lambda r: f"report: {r['report']}",
        about="write a run's report anew, or mark it as reviewed",
        examples='  makegood run report 2005-09-1a2b3c4d5e6f\n  makegood run report 2005-09-1a2b3c4d5e6f --reviewed "sent back"',
    )  # fmt: skip
    report.add_argument("run", metavar="RUN")
    report.add_argument("--reviewed", metavar="COMMENT", help="mark as reviewed by you, with a comment")
    with_login(report)


def _add_sending(commands: Any) -> None:
    stop = command(
        commands, "stop", _stop, _show_sending,
        about="halt all sending within one wave; says what is sent, not sent and unknown. Anybody may, with or without a login",
        examples='  makegood stop --reason "acquirer outage"',
    )  # fmt: skip
    resume = command(
        commands, "resume", _resume, _show_sending,
        about="lift the stops that stand, as you; a stop stands until as many different people have lifted it as it needs",
        examples='  MAKEGOOD_LOGIN=operator makegood resume --reason "the acquirer is back"\n'
        '  MAKEGOOD_LOGIN=approver makegood resume 7 --reason "the book agrees"',
    )  # fmt: skip
    resume.add_argument(
        "stops", nargs="*", type=int, metavar="STOP", help="numbers of the stops to lift (default: all)"
    )
    for parser in (stop, resume):
        parser.add_argument("--reason", default="", metavar="TEXT")
        with_login(parser)


def _add_administration(commands: Any) -> None:
    command(
        commands,
        "check",
        _check,
        _show_check,
        about="prove the audit log whole, show balances and what is unfinished",
        examples="  makegood check",
    )
    person = command(
        commands, "add-person", _add_person, _show_person, about="give a person a database login of their own",
        examples="  makegood add-person jiwoo --role approver",
    )  # fmt: skip
    person.add_argument("name")
    person.add_argument("--role", required=True, choices=["operator", "approver", "analyst", "auditor"])
    person.add_argument("--admin-url", metavar="URL", help="for your own server: a login that may create roles")
    database = command(
        commands, "db-setup", _set_up_database, lambda r: f"the database is {r['database']}; {r['next']}",
        about="create logins, databases and schema on your own PostgreSQL, or bring them up to date",
        examples="  makegood db-setup --admin-url postgresql+psycopg://postgres@db.example/postgres",
    )  # fmt: skip
    database.add_argument("--admin-url", required=True, metavar="URL")


# -- reading arguments ----------------------------------------------------------------------------------------------


def open_app(arguments: argparse.Namespace, progress: StageProgress) -> Any:
    """The installation, at the instant and for the person that the arguments name."""
    from pipeline.bootstrap import open_makegood  # DuckDB, Arrow and SQLAlchemy take a second; --help must not

    settings = Settings.from_environment()
    if arguments.login:
        settings = replace(settings, login=arguments.login)
    return open_makegood(as_of=_instant(arguments.as_of, settings), progress=progress, settings=settings)


def period_of(label: str) -> BillingPeriod:
    """The period an argument names."""
    try:
        return BillingPeriod.parse(label)
    except ValueError as error:
        raise UsageError(str(error)) from None


def _source(text: str) -> str:
    return text if "://" in text else str(Path(text).expanduser().resolve())


def _query(text: str | None) -> str | None:
    """The query itself; an argument that names a file stands for what is in it."""
    if text is not None and text.endswith(".sql"):
        try:
            return Path(text).read_text(encoding="utf-8")
        except OSError as error:
            raise UsageError(f"--query {text}: {error.strerror}") from None
    return text


def _instant(text: str | None, settings: Settings) -> datetime | None:
    """`--as-of` as an instant; a day means its noon, and a time without zone is in the business time zone."""
    if text is None:
        return None
    try:
        instant = datetime.fromisoformat(text if len(text) > 10 else f"{text}T12:00")
    except ValueError:
        raise UsageError(
            f"--as-of is a day or an instant such as 2005-09-11 or 2005-09-11T09:00; not {text!r}"
        ) from None
    return instant if instant.tzinfo else instant.replace(tzinfo=settings.timezone)
