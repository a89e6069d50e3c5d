"""Personal data in a text, by form and check digits: addresses of e-mail and machines, telephone, IBAN, card numbers.

What has check digits is held to them, so that an order number is no card. Names and street addresses are not found.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection

from rlaif.config.filters import PERSONAL, PersonalKind
from rlaif.records import Messages

LENGTHS = (
    "15 NO 16 BE BI 18 DK FI FK FO GL NL SD 19 MK SI 20 AT BA EE KZ LT LU MN XK 21 CH HR LI LV 22 BG BH CR DE GB GE IE "
    "ME RS VA 23 AE GI IL IQ OM SO TL 24 AD CZ DZ ES MD PK RO SA SE SK TN VG 25 LY PT ST 26 IS TR 27 BF CF DJ FR GR IT "
    "MC MR SM 28 AL AZ BY CY DO GT HU LB NI PL SV 29 BR EG PS QA UA 30 JO KW MU YE 31 MT SC 32 LC 33 RU"
)
IBAN_LENGTHS = {country: int(part[:2]) for part in re.findall(r"\d\d[ A-Z]+", LENGTHS) for country in part[2:].split()}
"""Of the IBAN registry (ISO 13616)."""
ISSUED = re.compile(r"4\d{12}(?:\d{3}){0,2}|5\d{15}|2[2-7]\d{14}|3[47]\d{13}|3[0689]\d{12}|35\d{14}|6\d{15,18}")
"""How card numbers begin, and how long they are."""
FORMS: dict[PersonalKind, re.Pattern[str]] = {
    "email": re.compile(
        r"(?<![\w.+-])[\w.+%-]{1,64}(?:'[\w.+%-]{1,64})?@"
        r"(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}[^\W\d_]{2,24}(?![\w@])"
    ),
    "iban": re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}\d{2}(?:[ -]?[A-Za-z0-9]){11,30}"),
    "card": re.compile(r"(?<![\w.,-])[2-6]\d{3}(?:[ -]?\d){8,15}(?![\d-]|[.,]\d)", re.ASCII),
    "ip": re.compile(
        r"(?<![\w.:])(?:\d{1,3}(?:\.\d{1,3}){3}(?!\w|\.\d)"
        r"|[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?:\.\d{1,3}){0,3}(?![\w:]))",
        re.ASCII,
    ),
    "phone": re.compile(
        r"(?<![\w.,/+-])(?<!\d )(?:(?:\+|00)[1-9]\d{0,2}[ .-]?(?:\(0?\d{0,4}\)[ .-]?)?\d{1,5}(?:[ ./-]?\d{1,5}){1,5}"
        r"|\(0\d{1,4}\) ?\d{2,8}(?:[ /-]\d{2,8}){0,3}"
        r"|\(\d{3}\) ?\d{3}[ .-]?\d{4}|(?:1[ .-])?[2-9]\d{2}([ .-])\d{3}\1\d{4}"
        r"|0[1-9]\d{1,4}(?:[ /-]\d{2,8}){1,4}(?:-\d)?|0[1-9](?:([ .-])\d\d)(?:\2\d\d){3}|0[1-9]\d{8,9}|1[3-9]\d{9})"
        r"(?![\w/-]|[.,:]\d)",
        re.ASCII,
    ),
}
"""Letters are those of ASCII: in scripts without spaces a word stands right beside a number."""


def masked(messages: Messages, kinds: Collection[PersonalKind]) -> tuple[Messages, Counter[str]]:
    """The conversation with `[email]`, `[phone]` ... in the place of what was found, and how often each was."""
    found: Counter[str] = Counter()
    turns = [turn.model_copy(update={"content": _masked(turn.content, kinds, found)}) for turn in messages]
    return tuple(turns), found


def _masked(text: str, kinds: Collection[PersonalKind], found: Counter[str]) -> str:
    for kind in (kind for kind in PERSONAL if kind in kinds):
        parts, done, at = [], 0, 0
        read = text if text.isascii() else "".join(map(_ascii, text))  # of the same length
        while match := FORMS[kind].search(read, at):
            length = REACHES[kind](match[0])
            at = match.start() + (length or 1)  # what is none may hold one further on
            if length:
                found[kind] += 1
                parts += [text[done : match.start()], f"[{kind}]"]
                done = at
        text = "".join([*parts, text[done:]])
    return text


def _ascii(sign: str) -> str:
    """The digits of all scripts as 0 to 9, full-width signs, spaces and dashes as those of a keyboard."""
    if (digit := unicodedata.decimal(sign, None)) is not None:
        return str(digit)
    if "\uff01" <= sign <= "\uff5e":
        return chr(ord(sign) - 0xFEE0)
    return {"Zs": " ", "Pd": "-"}.get(unicodedata.category(sign), sign)


def luhn(digits: str) -> bool:
    """Whether the last digit is the check digit of the others (ISO/IEC 7812-1)."""
    values = [int(digit) for digit in reversed(digits)]
    return sum(values[::2] + [sum(divmod(2 * value, 10)) for value in values[1::2]]) % 10 == 0


def _card(text: str) -> int:
    digits = re.sub(r"\D", "", text)
    return len(text) if ISSUED.fullmatch(digits) and luhn(digits) else 0


def _iban(text: str) -> int:
    """How far the IBAN reaches that the text begins with: words may follow it without any other sign."""
    places = [place for place, sign in enumerate(text) if sign.isalnum()]
    length = IBAN_LENGTHS.get(text[:2].upper(), 99)
    if len(places) < length:
        return 0
    end = places[length - 1] + 1
    number = re.sub(r"[ -]", "", text[:end]).upper()
    whole = not text[end : end + 1].isalnum()
    return end if whole and int("".join(str(int(c, 36)) for c in number[4:] + number[:4])) % 97 == 1 else 0


def _ip(text: str) -> int:
    """This machine's own and netmasks tell of nobody; nor do times, and names like `a::b`, which are no addresses."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return 0
    nobody = address.is_loopback or address.is_unspecified or (address.version == 4 and address.is_reserved)
    return 0 if nobody or not re.search(r"\d", text) else len(text)


def _phone(text: str) -> int:
    """Seven digits or more, eight after a plus sign, and at most the fifteen of E.164; dates are none."""
    digits = len(re.sub(r"\D", "", text))
    date = re.fullmatch(r"0\d[ /-]\d\d[ /-]\d{4}", text)
    return len(text) if 7 + text.startswith("+") <= digits <= 15 + text.startswith("00") * 2 and not date else 0


REACHES: dict[PersonalKind, Callable[[str], int]] = {
    "email": len,
    "iban": _iban,
    "card": _card,
    "ip": _ip,
    "phone": _phone,
}
"""How much of what has the form is one; 0: it is none."""
