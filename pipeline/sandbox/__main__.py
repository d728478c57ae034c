"""`python -m pipeline.sandbox`: run the practice acquirer, look into its book, plant trouble.

Every command but `serve` works while a process serves the folder (it is asked) and while none does.
"""

import argparse
import json
import os
import sys
from pathlib import Path

from pipeline.sandbox.server import LOCK_PATIENCE_SECONDS, Counter, FolderTakenError, ask

PRIVATE_UMASK = 0o077
"""The book, tokens and answers are for whoever runs the acquirer alone."""

_EXAMPLES = """examples:
  python -m pipeline.sandbox serve --folder data/acquirer
  python -m pipeline.sandbox export-book --folder data/acquirer --to book.parquet
  python -m pipeline.sandbox fault --folder data/acquirer timeout_after_accept=0.01 late_success=0.01
  python -m pipeline.sandbox fault --folder data/acquirer insufficient_funds=0.02 cutoff_days=0
  python -m pipeline.sandbox clock --folder data/acquirer 2023-09-11T00:00:00+00:00
  python -m pipeline.sandbox event --folder data/acquirer dispute payment_id=8800000000000001
"""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; answers the exit code."""
    os.umask(PRIVATE_UMASK)
    options = _parser().parse_args(arguments)
    folder = options.folder.resolve()
    try:
        if options.command == "serve":
            counter = Counter(folder, patience_seconds=LOCK_PATIENCE_SECONDS)
            try:
                counter.serve(options.until_parent_exits)
            finally:
                counter.close()
            return 0
        sys.stdout.write(json.dumps(ask(folder, *_request(options)), indent=1) + "\n")
    except (FolderTakenError, ValueError, TimeoutError) as error:
        sys.stderr.write(f"{error}\n")
        return 2 if isinstance(error, ValueError) else 1
    return 0


def _request(options: argparse.Namespace) -> tuple[str, dict]:
    match options.command:
        case "export-book":
            return "export", {"to": str(options.to.resolve())}
        case "fault":
            return "set", _pairs(options.setting)
        case "clock":
            return "clock", {"as_of": None if options.time == "real" else options.time}
        case "event":
            return "event", {"kind": options.kind, **_pairs(options.column)}
        case command:
            return command, {}


def _pairs(words: list[str]) -> dict[str, str | int]:
    pairs = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise ValueError(f"write name=value, not {word!r}")
        pairs[name] = int(value) if name == "amount_minor" else value
    return pairs


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.sandbox",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, what: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=what, description=what)
        sub.add_argument("--folder", type=Path, required=True, help="the acquirer's folder")
        return sub

    serve = command("serve", "serve the folder until SIGTERM; one process per folder")
    serve.add_argument("--until-parent-exits", type=int, metavar="PID", help="stop as well when this process is gone")
    command("export-book", "write the whole book as Parquet").add_argument("--to", type=Path, required=True)
    command("fault", "change settings: faults, declines, cut-off").add_argument(
        "setting", nargs="+", metavar="NAME=VALUE"
    )
    command("clock", "set the acquirer's clock").add_argument("time", help="ISO 8601 in UTC, or real")
    command("settle", "write the settlement files of days that are over")
    event = command("event", "let something happen that the merchant did not send: support_refund, dispute, close_card")
    event.add_argument("kind", choices=("support_refund", "dispute", "close_card"))
    event.add_argument("column", nargs="+", metavar="NAME=VALUE", help="payment_id=, amount_minor=, instrument_token=")
    command("status", "time, next file sequence numbers, settings")
    return parser


if __name__ == "__main__":
    sys.exit(main())
