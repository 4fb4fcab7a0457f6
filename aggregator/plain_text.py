"""Texts that devices sent, on their way to a terminal or a page: one line, without control characters."""


def plain(text: str) -> str:
    """`text` with a space for every character that does not print: no escape sequence, no second line.

    >>> plain("a\\x1b[31m b\\n")
    'a [31m b '
    """
    return "".join(c if c.isprintable() else " " for c in text)
