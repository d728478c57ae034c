"""`makegood generate` and `makegood mischarge`: charge files to practise on, right ones and wrong ones.

Belongs here: arguments of these commands and what they print. Does not: any work - that is `pipeline.generate`.
"""

import argparse
from pathlib import Path
from typing import Any

from pipeline.cli import command, period_of
from pipeline.errors import UsageError
from pipeline.progress import StageProgress


def add_commands(commands: Any) -> None:
    """Add `generate` and `mischarge`."""
    generate = command(
        commands, "generate", _generate, _show_source,
        about="make up charge files of any size, with realistic month-to-month behaviour",
        examples="  makegood generate --out data/million --customers 1460000 --months 4 --first-period 2023-06\n"
        "  makegood generate --out data/dearer --customers 20000 --months 6 --first-period 2023-04 \\\n"
        "      --price-change 2023-09 --price-change-percent 5 --price-change-plan LTE-49",
    )  # fmt: skip
    generate.add_argument("--out", required=True, metavar="DIR")
    generate.add_argument("--customers", type=int, default=30_000)
    generate.add_argument("--months", type=int, default=4)
    generate.add_argument("--first-period", default="2023-06", metavar="YYYY-MM")
    generate.add_argument(
        "--flat-share", type=float, default=0.3, help="share of bills that repeat every month, up to 0.8"
    )
    generate.add_argument(
        "--monthly-churn", type=float, default=0.012, help="share of customers who leave, and who join, each month"
    )
    generate.add_argument("--price-change", metavar="YYYY-MM", help="month from which plan fees are other ones")
    generate.add_argument("--price-change-percent", type=int, default=5, metavar="N", help="by so many percent")
    generate.add_argument(
        "--price-change-plan",
        action="append",
        default=[],
        metavar="CODE",
        help="of this plan alone; may be given again",
    )
    generate.add_argument("--currency", default="KRW")
    generate.add_argument("--seed", type=int, default=1)
    generate.add_argument("--contacts", action="store_true", help="with made-up contacts.parquet")
    generate.add_argument("--overwrite", action="store_true", help="replace an existing folder")
    _add_mischarge(commands)


def _add_mischarge(commands: Any) -> None:
    wrong = command(
        commands, "mischarge", _mischarge, _show_mischarge,
        about="copy a source with one month made wrong: by the incident, or by any fault of the catalogue, to practise on",
        examples="  makegood mischarge --source data/sample --out data/wrong --period 2005-09 --amounts-of 2005-07\n"
        "  makegood mischarge --list\n"
        "  makegood mischarge --source data/sample --out data/tenfold --period 2005-09 --fault times_10 --size 0.01\n"
        "  makegood mischarge --source data/sample --out data/gold --period 2005-09 --amounts-of 2005-07 \\\n"
        "      --size 0.1 --cohort issuer=Rowan --cohort plan_code=GOLD --seed 2",
    )  # fmt: skip
    wrong.add_argument("--list", action="store_true", help="list the faults and do nothing else")
    wrong.add_argument("--source", metavar="DIR")
    wrong.add_argument("--out", metavar="DIR")
    wrong.add_argument("--period", metavar="YYYY-MM", help="the month to make wrong")
    wrong.add_argument(
        "--amounts-of", metavar="YYYY-MM", help="the month whose amounts are charged; alone: for everybody"
    )
    wrong.add_argument("--fault", metavar="NAME", help="what goes wrong; --list names all")
    wrong.add_argument("--size", type=float, metavar="SHARE", help="share of the customers hit (default: all)")
    wrong.add_argument(
        "--cohort", action="append", default=[], metavar="COLUMN=VALUE", help="hit these alone; may be given again"
    )
    wrong.add_argument("--seed", type=int, help="another seed hits other customers (default: 1)")
    wrong.add_argument("--overwrite", action="store_true", help="replace the period where it exists")


def _generate(arguments: argparse.Namespace, progress: StageProgress) -> tuple[dict, int]:
    from pipeline.generate import Behaviour, generate

    written = generate(
        Path(arguments.out),
        customers=arguments.customers,
        first_period=period_of(arguments.first_period),
        months=arguments.months,
        seed=arguments.seed,
        behaviour=Behaviour(
            flat_share=arguments.flat_share,
            monthly_churn=arguments.monthly_churn,
            price_change_period=period_of(arguments.price_change) if arguments.price_change else None,
            price_change_percent=arguments.price_change_percent if arguments.price_change else 0,
            price_change_plans=tuple(arguments.price_change_plan),
        ),
        currency=arguments.currency,
        contacts=arguments.contacts,
        overwrite=arguments.overwrite,
        progress=progress,
    )
    return {
        "source": str(Path(arguments.out).resolve()),
        "periods": [str(period.billing_period) for period in written],
    }, 0


def _mischarge(arguments: argparse.Namespace, progress: StageProgress) -> tuple[dict, int]:
    if arguments.list:
        return _list(), 0
    if missing := [name for name in ("source", "out", "period") if getattr(arguments, name) is None]:
        raise UsageError(f"--{missing[0]} is needed; makegood mischarge --help has examples")
    if arguments.fault is None and arguments.amounts_of is None:
        raise UsageError("say what goes wrong: --amounts-of YYYY-MM, or --fault NAME (--list names all)")
    if arguments.fault or arguments.size is not None or arguments.cohort or arguments.seed is not None:
        return _inject(arguments, progress), 0
    from pipeline.generate import with_wrong_month

    with_wrong_month(
        Path(arguments.source),
        Path(arguments.out),
        period=period_of(arguments.period),
        amounts_of=period_of(arguments.amounts_of),
        overwrite=arguments.overwrite,
        progress=progress,
    )
    return {"source": str(Path(arguments.out).resolve()), "periods": [arguments.period]}, 0


def _inject(arguments: argparse.Namespace, progress: StageProgress) -> dict:
    from pipeline.generate import CATALOGUE, inject

    period = period_of(arguments.period)
    given = {"size": arguments.size, "seed": arguments.seed}
    if arguments.amounts_of:
        given["lag"] = period.months_since(period_of(arguments.amounts_of))
    fault = arguments.fault or "earlier_month"
    injected = inject(
        Path(arguments.source),
        Path(arguments.out),
        fault=fault,
        period=period,
        cohort=dict(_cohort(text) for text in arguments.cohort),
        overwrite=arguments.overwrite,
        progress=progress,
        **{name: value for name, value in given.items() if value is not None},
    )
    return {
        "source": str(Path(arguments.out).resolve()),
        "periods": [arguments.period],
        "fault": fault,
        "cause": CATALOGUE[fault].cause,
        "affected": injected.affected,
        "difference_minor": injected.difference_minor,
        "truth": str(injected.truth.resolve()),
    }


def _cohort(text: str) -> tuple[str, str]:
    column, equals, value = text.partition("=")
    if not (column and equals and value):
        raise UsageError(f"--cohort is COLUMN=VALUE, such as issuer=Rowan; not {text!r}")
    return column, value


def _list() -> dict:
    from pipeline.generate import CATALOGUE

    return {
        "faults": [
            {"name": fault.name, "cause": fault.cause, "title": fault.title, "smallest": fault.smallest}
            for fault in CATALOGUE.values()
        ]
    }


def _show_source(result: dict) -> str:
    return f"{result['source']}: {', '.join(result['periods'])}"


def _show_mischarge(result: dict) -> str:
    if "faults" in result:
        return "\n".join(
            f"{fault['name']:22} {'-' if fault['smallest'] is None else format(fault['smallest'], '.1%'):>5}  {fault['title']}"
            for fault in result["faults"]
        )
    lines = [_show_source(result)]
    if "fault" in result:
        lines.append(
            f"  {result['fault']}: {result['affected']:,} bills are not as they should be;"
            f" the month's total is {result['difference_minor']:+,} minor units off; every bill: {result['truth']}"
        )
    return "\n".join(lines)
