r"""Exact numbers as replies write them, within fixed digits: nothing hostile is ever computed."""

from __future__ import annotations

import re
from fractions import Fraction

_DIGITS = 400
"""Decimal digits; a number with more above or below its fraction stroke is left as text."""

_DECIMAL = (
    r"(?:(?:[1-9][0-9]{0,2}(?:[, ][0-9]{3})+|[0-9]{1,400})(?:\.[0-9]{0,400})?|\.[0-9]{1,400})"
)
_SIGNED = rf"[+-]?\s?{_DECIMAL}"
_NUMBER = re.compile(
    rf"(?P<sign>[+-]?)\s*(?:"
    rf"(?P<whole>[0-9]{{1,400}})\s?\\frac\{{(?P<part>[0-9]{{1,400}})\}}\{{(?P<of>[0-9]{{1,400}})\}}"
    rf"|(?P<whole2>[0-9]{{1,400}})\s(?P<part2>[0-9]{{1,400}})/(?P<of2>[0-9]{{1,400}})"
    rf"|\\frac\{{\s?(?P<over>{_SIGNED})\s?\}}\{{\s?(?P<under>{_SIGNED})\s?\}}"
    rf"|(?P<over2>{_DECIMAL})\s?/\s?(?P<under2>{_DECIMAL})"
    rf"|(?:(?P<factor>{_DECIMAL})\s?\*\s?)?(?P<base>{_DECIMAL})\s?\^\s?"
    rf"(?P<power>[+-]?[0-9]{{1,4}}|\{{\s?[+-]?[0-9]{{1,4}}\s?\}})"
    rf"|(?P<plain>{_DECIMAL})(?:[eE](?P<exponent>[+-]?[0-9]{{1,4}}))?"
    rf")"
)
_SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_UNIT_WORDS = """
mm cm dm m km in ft yd mi mg g kg lb lbs oz ml cl l L s sec secs min mins h hr hrs ms mph kmh kph
Hz kHz N J kJ W kW V A K Pa kPa mol cc deg degree degrees percent pct rad radian radians dollar
dollars cent cents euro euros pound pounds rupees unit units inch inches foot feet yard yards mile
miles meter meters metre metres kilometer kilometers centimeter centimeters millimeter millimeters
gram grams kilogram kilograms liter liters litre litres second seconds minute minutes hour hours
day days week weeks month months year years square cubic sq cu per
"""
_UNITS = frozenset(_UNIT_WORDS.split())
_CALCULATING_WORDS = """
pi sqrt sin cos tan cot csc log ln exp mod or and to plus minus times over choose divided infinity
squared cubed factorial base am pm bc ad bce ce dozen pairs not no by than less more half third
thirds quarter quarters fifths remainder
"""
_CALCULATING = frozenset(_CALCULATING_WORDS.split())
"""Words after a number that change its value."""
_UNIT = re.compile(
    r"(?<=[0-9})])(?P<gap>\s*)"
    r"(?P<words>[A-Za-z]+(?:[ /*.-]{1,3}[A-Za-z]+)*)(?:\s?\^\s?\{?\s?-?[0-9]\s?\}?)?$"
)


def parse_number(text: str) -> Fraction | None:
    r"""Read a decimal, a fraction, a mixed number, a power or scientific notation, exactly."""
    match = _NUMBER.fullmatch(text.strip())
    if match is None:
        return None
    value = _magnitude(match)
    if value is None or _size(value) > _DIGITS:
        return None
    return -value if match["sign"] == "-" else value


def number_key(value: Fraction) -> str:
    """Write a number in its one form: `-3`, `1/2`."""
    return str(value)


def strip_unit(text: str) -> tuple[str, Fraction | None]:
    r"""Drop a trailing unit, and read the number before it where there is one.

    `5 million people` is a number, `5 x` is not, and of `3 \sqrt{2} cm` the unit goes.
    """
    match = _UNIT.search(text)
    if match is None:
        return text, None
    before = text[: match.start()]
    words = re.split(r"[ /*.-]+", match["words"])
    known = all(word in _UNITS for word in words) and (bool(match["gap"]) or len(words[0]) > 1)
    number = parse_number(before)
    if number is None:
        return (before if known else text), None
    scale = _SCALES.get(words[0].lower(), 0)
    if scale:
        number *= 10**scale
        words = words[1:]
    return text, number if known or _are_counted(words, match["gap"]) else None


def _are_counted(words: list[str], gap: str) -> bool:
    """Tell whether words after a number name what is counted, rather than go on calculating."""
    whole = all(len(word) > 1 or word in _UNITS for word in words)
    calculating = not _CALCULATING.isdisjoint(word.lower() for word in words)
    return bool(gap) and whole and not calculating and len(words) <= 4


def _magnitude(match: re.Match[str]) -> Fraction | None:
    if match["plain"]:
        return _scaled(_decimal(match["plain"]), Fraction(10), int(match["exponent"] or 0))
    if match["base"]:
        factor = _decimal(match["factor"]) if match["factor"] else Fraction(1)
        return _scaled(factor, _decimal(match["base"]), int(match["power"].strip("{} ")))
    whole, part, of = (match[name] or match[name + "2"] for name in ("whole", "part", "of"))
    if whole:
        return Fraction(int(whole)) + Fraction(int(part), int(of)) if int(of) else None
    over, under = (_decimal(match[name] or match[name + "2"]) for name in ("over", "under"))
    return over / under if under else None


def _scaled(factor: Fraction, base: Fraction, power: int) -> Fraction | None:
    """Return factor * base ** power, if it has few digits: checked before it is computed."""
    if base == 0 and power <= 0:
        return None
    if base not in (0, 1) and _size(base) * abs(power) > 2 * _DIGITS:
        return None
    return factor * base**power


def _decimal(text: str) -> Fraction:
    return Fraction(re.sub(r"[, ]", "", text))


def _size(value: Fraction) -> int:
    """Bound the decimal digits of the larger part from above."""
    return max(value.numerator.bit_length(), value.denominator.bit_length()) * 31 // 100 + 1
