"""Card numbers where none belongs: `sql/card_number.sql`, for whoever reads charges.

Belongs here: asking that file about an Arrow column, and giving its words to a database. Does not: what a card number is (the file), or
what is done about one.
"""

from importlib import resources

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.adapters import duck

_SQL = (resources.files("pipeline") / "sql" / "card_number.sql").read_text(encoding="utf-8")

_DIGITS = "^[0-9 -]{13,}$"
_AS_PRINTED = "^[0-9]{4}[ -][0-9]{4,6}[ -][0-9 -]{4,}$"


def define_card_number(connection: duckdb.DuckDBPyConnection) -> None:
    """Let the statements of `connection` ask `is_card_number`."""
    connection.execute(_SQL)


def card_numbers(values: pa.Array, *, as_printed: bool = False) -> pa.Array:
    """Whether each of `values` (text) is a card number; false for NULL.

    Args:
        as_printed: only if it is grouped as on a card. Ids may be made of digits, and one in ten of those that begin as card numbers do
            passes for one; an id that is grouped so as well does not exist.
    """
    may_be = pc.fill_null(pc.match_substring_regex(values, _AS_PRINTED if as_printed else _DIGITS), False)
    if not pc.any(may_be).as_py():
        return may_be
    with duck.connect() as connection:
        define_card_number(connection)
        asked = pa.table({"place": pc.indices_nonzero(may_be), "text": values.filter(may_be)})
        connection.register("asked", asked)
        found = connection.execute("SELECT place FROM asked WHERE is_card_number(text)").to_arrow_table()["place"]
    return pc.is_in(pa.array(range(len(values)), pa.uint64()), found.combine_chunks().cast(pa.uint64()))
