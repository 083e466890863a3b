"""What a text is: its normal form and the key that stands for it."""

from __future__ import annotations

import hashlib
import html
import re
import sys
import unicodedata
from functools import cache, partial

KEY_BYTES = 16

MARKS_IN_A_ROW = 30
"""Combining marks on one letter; no language has more (Unicode Standard Annex 15, stream-safe text)."""

CHARACTERS_TO_LOOK_AT = 1000
"""A text of fewer is normalised in a millisecond, whatever it is."""

INVISIBLE = {"Cc", "Cf", "Zl", "Zp", "Zs"}
"""Unicode's categories of controls, format characters (zero-width ones among them) and separators."""

# Letters and combining marks as ranges of a regular expression's class; digits and punctuation are not in them.
HAN_AND_KANA = (
    "\u3005-\u3007\u3021-\u3029\u3031-\u3035\u3038-\u303c\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
THAI_LAO_MYANMAR_KHMER = (
    "\u0e01-\u0e3a\u0e40-\u0e4e\u0e81-\u0ece\u0edc-\u0edf\u1000-\u103f\u1050-\u108f\u109a-\u109d"
    "\u1780-\u17d3\u17d7\u17dc-\u17dd\ua9e0-\ua9ef\ua9fa-\ua9fe\uaa60-\uaa76\uaa7a-\uaa7f"
)
_UNSPACED = HAN_AND_KANA + THAI_LAO_MYANMAR_KHMER
# `\w` leaves combining marks out. A virama stacks the next consonant below the one before.
_COMBINED = rf"[\u1039\u17d2][{THAI_LAO_MYANMAR_KHMER}]|(?!\w)[\u3099\u309a{THAI_LAO_MYANMAR_KHMER}]"

UNSPACED_CHARACTER = re.compile(f"[{_UNSPACED}](?:{_COMBINED})*")
"""A character, combining marks included, of a script that is written without spaces between words."""

_WORD = re.compile(r"\w+")
_WORD_OR_CHARACTER = re.compile(rf"{UNSPACED_CHARACTER.pattern}|[^\W{_UNSPACED}]+")


def normalise(text: str) -> str:
    """Return `text` in Unicode NFKC with each run of white space as one space and none at the ends.

    NFKC (Unicode Standard Annex 15) folds full-width digits, ligatures and no-break spaces, which differ between feeds
    that carry the same sentence. Case and punctuation stay: they carry meaning. In a long text, combining marks after
    the thirtieth in a row are left out: NFKC takes as many steps as the square of their number.
    """
    if len(text) <= CHARACTERS_TO_LOOK_AT or text.isascii():
        return " ".join(unicodedata.normalize("NFKC", text).split())
    keep_thirty = partial(_marks_in_a_row().sub, r"\1")
    # Once more after it, since it makes two marks of some.
    return " ".join(keep_thirty(unicodedata.normalize("NFKC", keep_thirty(text))).split())


@cache
def _marks_in_a_row() -> re.Pattern[str]:
    """Return what finds more marks in a row than a text keeps; those that it keeps are its first group."""
    marks = "".join(filter(unicodedata.combining, map(chr, range(sys.maxunicode + 1))))
    # These five are no marks themselves, and NFKC makes nothing but marks of them.
    mark = f"[{marks}\u0f73\u0f75\u0f81\uff9e\uff9f]"
    return re.compile(f"({mark}{{{MARKS_IN_A_ROW}}}){mark}+")


def unescaped(text: str) -> str:
    """Return `text` with its HTML entities decoded; one with a number that Python cannot read stays as it is."""
    try:
        return html.unescape(text)
    except ValueError:
        # Python reads no number of more than 4,300 digits.
        return text


def cleaned(text: str) -> str:
    """Return `text` without what files leave in it: NUL characters, and byte-order marks at its beginning.

    A text of nothing but characters that nobody sees, such as zero-width spaces, is "".
    """
    if text.isascii():
        return text.replace("\0", " ") if "\0" in text else text
    text = text.replace("\0", " ").lstrip("\ufeff")
    return text if any(unicodedata.category(character) not in INVISIBLE for character in text) else ""


def text_key(normalised: str) -> bytes:
    """Return the key of a normalised text: 128 bits of BLAKE2b (RFC 7693) over its UTF-8 bytes."""
    return hashlib.blake2b(normalised.encode("utf-8"), digest_size=KEY_BYTES).digest()


def words(text: str) -> list[str]:
    """Return the words of `text`, punctuation left out.

    A word is a run of letters, digits and underscores. In scripts that are written without spaces between words
    (Chinese, Japanese, Thai, Lao, Myanmar, Khmer) each character counts as one, its combining marks included.
    """
    if text.isascii() or not UNSPACED_CHARACTER.search(text):
        return _WORD.findall(text)
    return _WORD_OR_CHARACTER.findall(text)
