"""Made-up personal numbers with check digits, so that detectors of such data can be tried on them.

Each kind has a function that makes one from a generator of random numbers and one that tells
whether a text is one. Any single changed digit of a number made here fails its check.
"""

from __future__ import annotations

import datetime
import random
import string

RESIDENT_GROUPS = (6, 7)
MEMBER_GROUPS = (3, 4, 4)
ACCOUNT_GROUPS = (3, 3, 6)

_RESIDENT_WEIGHTS = (2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5)
_CENTURIES = {"1": 1900, "2": 1900, "3": 2000, "4": 2000}
"""By the seventh digit, which is odd for men; those of foreigners are not made here."""


def make_resident_number(rng: random.Random, born: datetime.date, male: bool) -> str:
    """A Korean resident registration number, `YYMMDD-SRRRRNC`.

    The office code RR is one of 97 to 99, which lie beyond those given to offices, so that the
    number is nobody's. Numbers with check digit 1 are not made: two remainders share that digit,
    and some changed digits would go unseen.
    """
    seventh = (1 if male else 2) + (2 if born.year >= 2000 else 0)
    while True:
        office = rng.randint(97, 99)
        body = f"{born:%y%m%d}{seventh}{office}{_random_digits(rng, 3)}"
        check = _resident_check(body)
        if check != "1":
            return grouped(body + check, RESIDENT_GROUPS)


def valid_resident_number(text: str) -> bool:
    """Whether date and check digit are right; hyphens and blanks do not matter."""
    digits = digits_of(text)
    if len(digits) != 13 or digits[6] not in _CENTURIES:
        return False
    year = _CENTURIES[digits[6]] + int(digits[:2])
    try:
        datetime.date(year, int(digits[2:4]), int(digits[4:6]))
    except ValueError:
        return False
    return _resident_check(digits[:12]) == digits[12]


def make_member_id(rng: random.Random) -> str:
    """An insurer's member number of eleven digits, the last two a check (ISO 7064, mod 97-10)."""
    body = rng.choice("123456789") + _random_digits(rng, 8)
    return grouped(f"{body}{98 - int(body) * 100 % 97:02d}", MEMBER_GROUPS)


def valid_member_id(text: str) -> bool:
    """Whether the check is right; hyphens and blanks do not matter."""
    digits = digits_of(text)
    return len(digits) == 11 and int(digits) % 97 == 1


def make_account_number(rng: random.Random) -> str:
    """A bank account of twelve digits, the last one a check digit (ISO/IEC 7812, Luhn)."""
    body = rng.choice("123456789") + _random_digits(rng, 10)
    return grouped(body + str(-_luhn_sum(body + "0") % 10), ACCOUNT_GROUPS)


def valid_account_number(text: str) -> bool:
    """Whether the check is right; hyphens and blanks do not matter."""
    digits = digits_of(text)
    return len(digits) == 12 and _luhn_sum(digits) % 10 == 0


def digits_of(text: str) -> str:
    """The digits of a number written in groups; empty for text that has anything else in it."""
    bare = text.replace("-", "").replace(" ", "")
    return bare if bare.isascii() and bare.isdigit() else ""


def grouped(digits: str, groups: tuple[int, ...]) -> str:
    """The digits in hyphenated groups of these lengths; as they are where the count is another."""
    if len(digits) != sum(groups):
        return digits
    starts = [sum(groups[:place]) for place in range(len(groups))]
    return "-".join(digits[at : at + size] for at, size in zip(starts, groups, strict=True))


def _random_digits(rng: random.Random, count: int) -> str:
    return "".join(rng.choice(string.digits) for _ in range(count))


def _resident_check(body: str) -> str:
    total = sum(int(digit) * by for digit, by in zip(body, _RESIDENT_WEIGHTS, strict=True))
    return str((11 - total % 11) % 10)


def _luhn_sum(digits: str) -> int:
    doubled = (int(digit) * (1 + place % 2) for place, digit in enumerate(reversed(digits)))
    return sum(value - 9 if value > 9 else value for value in doubled)
