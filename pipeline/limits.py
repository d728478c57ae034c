"""How large foreign input may be before it is refused: bounds that no real file meets and a hostile one does.

Belongs here: the bounds on files that somebody else wrote, each with its reason. Does not: reading them. A bound that a real company
meets is raised by the environment variable `MAKEGOOD_LIMIT_<NAME>`, a whole number.
"""

from pipeline.settings import own_limit

MIB = 1024 * 1024

COLUMNS = own_limit("COLUMNS", 1_000)
"""Of a table: charge files have 16, settlement files some 30, exports of whole data warehouses a few hundred."""

LINE_BYTES = own_limit("LINE_BYTES", 2 * MIB)
"""Of a text, line end included: a charge is some 200 bytes."""

TEXT_EXPANSION = own_limit("TEXT_EXPANSION", 250)
"""Times its size that a compressed file may grow to: charges shrink 5 to 50 times, a bomb some 1,000 times and more."""

FREE_EXPANSION_BYTES = own_limit("FREE_EXPANSION_BYTES", 64 * MIB)
"""Content up to this size may expand from anything."""

CONTENT_BYTES = own_limit("CONTENT_BYTES", 256 * 1024 * MIB)
"""Of one file, decompressed: a thousand million charges."""

IMPORT_BYTES = own_limit("IMPORT_BYTES", 2 * 1024 * MIB)
"""Of a file of charges made elsewhere or of contacts, decompressed: it is held in memory whole; ten million rows."""

PARQUET_FOOTER_BYTES = own_limit("PARQUET_FOOTER_BYTES", 16 * MIB)
"""Of what a Parquet file says about itself, which is held in memory many times larger: 100 bytes for each column of a row group."""

PARQUET_ELEMENTS = own_limit("PARQUET_ELEMENTS", 20_000)
"""Of any list in a Parquet footer - columns, row groups: more than 1,000 million rows in groups of the usual size."""

PARQUET_PAGE_BYTES = own_limit("PARQUET_PAGE_BYTES", 128 * MIB)
"""Of a page, decompressed: writers end one after 1 MiB, some after 100 MB."""

PARQUET_ROWS_PER_BYTE = own_limit("PARQUET_ROWS_PER_BYTE", 50)
"""Rows that a file may claim for each of its bytes: an id that differs from row to row takes a byte, run lengths nothing."""

FREE_ROWS = own_limit("FREE_ROWS", 2_000_000)
"""A file may claim so many rows whatever its size."""

VALUE_BYTES = own_limit("VALUE_BYTES", 4_096)
"""Of one text: no identifier, code or token comes near it."""

MANIFEST_BYTES = own_limit("MANIFEST_BYTES", 16 * MIB)
"""Some 80,000 files; anything larger is not a manifest."""

JSON_BYTES = own_limit("JSON_BYTES", 16 * MIB)
"""Of a settings file or a proposal of bounds: 100,000 bounds."""

SETTLEMENT_BYTES = own_limit("SETTLEMENT_BYTES", 2 * 1024 * MIB)
"""Of a settlement file, whose lines are held in memory: some ten million."""
