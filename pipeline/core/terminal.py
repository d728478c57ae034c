"""Text as a terminal may be given it: whatever a file or a person wrote into it can be seen and does nothing.

Belongs here: which characters act on a terminal, and what is shown for them. Does not: printing (`cli`).
"""

import re

_ACTING = re.compile(
    "["
    "\x00-\x08\x0b-\x1f\x7f"  # C0 but tab and line end: escape sequences begin here, a carriage return overwrites a line
    "\x80-\x9f"  # C1: the same in one character
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # marks that turn the direction of writing: a name reads as another
    "\u2028\u2029\ufeff"  # line ends that are none, and a mark that cannot be seen
    "\ud800-\udfff"  # halves of a character, which cannot be written at all
    "]"
)


def visible(text: str) -> str:
    """`text` with every character that would act on a terminal written out, as `\\x1b` or `\\u202e`."""
    return _ACTING.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)
