"""`makegood contacts ...`: the contacts in messages that were sent, and the keys they are sealed under.

Belongs here: arguments of these commands and what they print. Does not: any work - that is `bootstrap.Makegood`.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from pipeline.cli import command, open_app, period_of, with_login
from pipeline.progress import StageProgress

ID = "inc-2005-09-1a2b3c4d"


def add_commands(commands: Any) -> None:
    """Add `contacts`."""
    actions = commands.add_parser(
        "contacts", help="contacts in messages that were sent: list, read, find, rotate, purge, escrow, restore"
    ).add_subparsers(required=True, metavar="ACTION")
    command(actions, "list", _list, _show_list, about="months whose contacts are kept, or were purged and by whom",
            examples="  makegood contacts list --json")  # fmt: skip
    read = command(actions, "read", _read, _show_read, about="an incident's messages, one JSON object a line: for a channel's program",
                   examples=f"  makegood contacts read {ID} --batch void-0001")  # fmt: skip
    read.add_argument("incident", metavar="ID")
    read.add_argument("--batch", metavar="NAME", help="this batch alone (default: all)")
    command(actions, "find", _find, _show_find, about="whom messages to a contact were about; it is read from standard input",
            examples="  makegood contacts find < contact.txt")  # fmt: skip
    for name, run, show, about in (
        ("rotate", _rotate, _show_rotate, "give a month a new key and seal its messages anew"),
        ("purge", _purge, _show_purge, "destroy a month's key: nobody reads its contacts again"),
    ):
        parser = command(actions, name, run, show, about=about,
                         examples=f"  MAKEGOOD_LOGIN=operator makegood contacts {name} --period 2005-09")  # fmt: skip
        parser.add_argument("--period", required=True, metavar="YYYY-MM")
        with_login(parser)
    for name, run, show, about, option in (
        (
            "escrow",
            _escrow,
            _show_escrow,
            "write all keys to a file, sealed under a passphrase, to be kept elsewhere",
            "--out",
        ),
        ("restore", _restore, _show_restore, "bring back keys that are lost here; purged ones stay purged", "--from"),
    ):
        example = f"  MAKEGOOD_LOGIN=operator makegood contacts {name} {option} keys.escrow --passphrase-file words.txt"
        parser = command(actions, name, run, show, about=about, examples=example)
        parser.add_argument(option, required=True, dest="file", metavar="FILE")
        parser.add_argument(
            "--passphrase-file", required=True, metavar="FILE", help="20 characters or more, kept apart from the keys"
        )
        with_login(parser)


def _list(arguments: argparse.Namespace, progress: StageProgress) -> tuple[dict, int]:
    return {"months": open_app(arguments, progress).contacts_kept()}, 0


def _show_list(result: dict) -> str:
    return "\n".join(_month(kept) for kept in result["months"]) or "no contacts are kept here"


def _month(kept: dict) -> str:
    by = f" by {kept['purged_by']}" if kept["purged_by"] else ""
    return f"{kept['billing_period']}  {kept['state']}{by}, {kept['batches']:,} batches of messages"


def _read(arguments: argparse.Namespace, progress: StageProgress) -> tuple[dict, int]:
    return {"messages": open_app(arguments, progress).read_messages(arguments.incident, arguments.batch)}, 0


def _show_read(result: dict) -> str:
    return result["messages"].rstrip("\n")


def _find(arguments: argparse.Namespace, progress: StageProgress) -> tuple[dict, int]:
    return {"found": open_app(arguments, progress).find_contact(sys.stdin.readline())}, 0


def _show_find(result: dict) -> str:
    return (
        "\n".join(f"{row['customer_id']}  {row['incident_id']}" for row in result["found"])
        or "no message went to that contact"
    )


def _rotate(arguments: argparse.Namespace, progress: StageProgress) -> tuple[dict, int]:
    return open_app(arguments, progress).rotate_contact_key(str(period_of(arguments.period))), 0


def _show_rotate(result: dict) -> str:
    return f"{result['billing_period']}: {result['batches']:,} batches of messages are sealed under a new key; put it into escrow"


def _purge(arguments: argparse.Namespace, progress: StageProgress) -> tuple[dict, int]:
    return open_app(arguments, progress).purge_contacts(str(period_of(arguments.period))), 0


def _show_purge(result: dict) -> str:
    return f"{_month(result)}; destroy the escrow of its key as well"


def _escrow(arguments: argparse.Namespace, progress: StageProgress) -> tuple[dict, int]:
    app = open_app(arguments, progress)
    return app.escrow_contact_keys(Path(arguments.file).expanduser(), Path(arguments.passphrase_file).expanduser()), 0


def _show_escrow(result: dict) -> str:
    return f"{result['file']}: the keys of {', '.join(result['periods'])}; keep it and the passphrase apart, and neither here"


def _restore(arguments: argparse.Namespace, progress: StageProgress) -> tuple[dict, int]:
    app = open_app(arguments, progress)
    return app.restore_contact_keys(Path(arguments.file).expanduser(), Path(arguments.passphrase_file).expanduser()), 0


def _show_restore(result: dict) -> str:
    return f"brought back: {', '.join(result['periods']) or 'nothing, for no key was missing'}"
