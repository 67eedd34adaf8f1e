"""Units: text to SI numbers and back, at the edges of the program only.

``parse("3.35 TB/s", "byte/s")`` reads what people write, in English or Chinese, and refuses what can be read in two ways. A
rate (PFLOPS) and an amount (PFLOPS-days) are different things and never stand in for each other. GB is 1e9 bytes, GiB is
2^30, Gb is bits. Inside the program every value is a float in SI units: byte, byte/s, flop, flop/s, s, w, j; money in usd
or cny; card time in card-hours.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from functools import cache

from suanchou.errors import SpecError

__all__ = ["DAY_S", "GIB", "PFLOPS_DAY", "UNITS", "fmt", "fmt_byte", "fmt_pflops_days", "parse"]

DAY_S = 86_400.0
PFLOPS_DAY = 1e15 * DAY_S
"""Operations in one PFLOPS-day: 8.64e19."""
GIB = 2.0**30

_SI = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18, "Z": 1e21, "Y": 1e24}
_BINARY = {f"{p}i": 1024.0**i for i, p in enumerate("KMGTPE", start=1)}
_WORDS = {"kilo": 1e3, "mega": 1e6, "giga": 1e9, "tera": 1e12, "peta": 1e15, "exa": 1e18, "zetta": 1e21}
_TIME = {
    **dict.fromkeys(("s", "sec", "second", "seconds", "秒"), 1.0),
    **dict.fromkeys(("min", "minute", "minutes", "分钟", "分"), 60.0),
    **dict.fromkeys(("h", "hr", "hour", "hours", "小时", "时"), 3600.0),
    **dict.fromkeys(("d", "day", "days", "天", "日"), DAY_S),
    **dict.fromkeys(("week", "weeks", "周"), 7 * DAY_S),
    **dict.fromkeys(("year", "years", "yr", "年"), 365 * DAY_S),
}
_ZH = {"千": 1e3, "万": 1e4, "十万": 1e5, "百万": 1e6, "千万": 1e7, "亿": 1e8, "十亿": 1e9, "百亿": 1e10, "千亿": 1e11}
_ZH |= {"万亿": 1e12, "十万亿": 1e13, "百万亿": 1e14, "千万亿": 1e15, "亿亿": 1e16}
_COUNT = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9, "t": 1e12, "K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9, "T": 1e12}
_COUNT |= {"thousand": 1e3, "million": 1e6, "billion": 1e9, "trillion": 1e12}
_NOUNS = ("tokens", "token", "parameters", "params", "param", "词元", "参数", "个", "users", "requests", "用户", "人", "次")
_CARDS = ("card", "cards", "gpu", "npu", "device", "卡")


def _join(prefixes: Mapping[str, float], names: Iterable[str], scale: float = 1.0) -> dict[str, float]:
    return {prefix + name: factor * scale for name in names for prefix, factor in prefixes.items()}


def _over(table: Mapping[str, float], divisors: Mapping[str, float]) -> dict[str, float]:
    return {f"{name}/{by}": factor / divisor for name, factor in table.items() for by, divisor in divisors.items()}


def _per(unit: str, divisors: Mapping[str, float]) -> Callable[[], dict[str, float]]:
    return lambda: _over(_table(unit), divisors)


def _byte() -> dict[str, float]:
    return _join(_SI | _BINARY, ("B", "byte", "bytes", "Byte", "字节"))


def _bit() -> dict[str, float]:
    return _join(_SI | _BINARY, ("b", "bit", "bits", "比特"), 1 / 8)


def _byte_rate() -> dict[str, float]:
    seconds = {name: 1.0 for name, factor in _TIME.items() if factor == 1.0}
    return _over(_byte() | _bit(), seconds) | _join(_SI, ("bps",), 1 / 8)


def _flop_rate() -> dict[str, float]:
    seconds = {name: 1.0 for name, factor in _TIME.items() if factor == 1.0}
    rate = _join(_SI | _WORDS, ("FLOPS", "OPS", "flops")) | _over(_join(_SI | _WORDS, ("FLOP", "flop", "OP")), seconds)
    # "500P" and "1.5E" are how Chinese centres state their peak; "TF" is the field's shorthand.
    return rate | _join({p: f for p, f in _SI.items() if p}, ("F",)) | {"P": 1e15, "E": 1e18}


def _flop() -> dict[str, float]:
    amount = _join(_SI | _WORDS, ("FLOP",))
    long = {name: factor for name, factor in _TIME.items() if factor in (3600.0, DAY_S)}
    for rate, factor in (_flop_rate() | _join(_WORDS, ("FLOP", "flop"))).items():
        amount |= {rate + name: factor * seconds for name, seconds in long.items()}
    return amount


def _card_h() -> dict[str, float]:
    hours = {name: factor / 3600.0 for name, factor in _TIME.items() if factor in (3600.0, DAY_S)}
    return {card + name: factor for card in _CARDS for name, factor in hours.items()}


def _hours() -> dict[str, float]:
    hour = {name: 1.0 for name, factor in _TIME.items() if factor == 3600.0}
    return hour | {card + name: 1.0 for card in _CARDS for name in hour}


_BUILD: dict[str, Callable[[], dict[str, float]]] = {
    "byte": _byte,
    "bit": _bit,
    "byte/s": _byte_rate,
    "flop": _flop,
    "flop/s": _flop_rate,
    "s": lambda: _TIME | {"ms": 1e-3, "毫秒": 1e-3, "us": 1e-6, "μs": 1e-6, "微秒": 1e-6, "ns": 1e-9, "纳秒": 1e-9},
    "w": lambda: _join({"m": 1e-3} | _SI, ("W",)) | {"瓦": 1.0, "兆瓦": 1e6},
    "j": lambda: _join({"m": 1e-3} | _SI, ("J",)) | _join(_SI, ("Wh",), 3600.0) | {"焦": 1.0, "度": 3.6e6, "瓦时": 3600.0},
    "usd": lambda: _join(_COUNT, ("USD", "$", "US$", "dollars", "美元")),
    "cny": lambda: _join(_COUNT, ("CNY", "RMB", "元", "¥", "人民币", "yuan")),
    "usd/h": _per("usd", _hours()),
    "cny/h": _per("cny", _hours()),
    "usd/kwh": _per("usd", {"kWh": 1.0, "度": 1.0, "千瓦时": 1.0, "MWh": 1e3}),
    "cny/kwh": _per("cny", {"kWh": 1.0, "度": 1.0, "千瓦时": 1.0, "MWh": 1e3}),
    "card_h": _card_h,
    "1": lambda: _COUNT | _join(_COUNT, _NOUNS),
    "frac": lambda: {"": 1.0, "%": 1e-2, "percent": 1e-2},
}
UNITS = tuple(unit for unit in _BUILD if unit != "bit")
"""The units :func:`parse` returns."""

_WHAT = {
    "byte": ("an amount of data", "80 GB or 80 GiB"),
    "bit": ("an amount of data in bits", "400 Gb"),
    "byte/s": ("a data rate", "3.35 TB/s or 400 Gb/s"),
    "flop": ("an amount of compute", "3.14e23 FLOP or 3640 PFLOPS-days"),
    "flop/s": ("a rate of compute", "989 TFLOPS"),
    "s": ("a time", "12 ms, 3 h or 30 d"),
    "w": ("a power", "700 W"),
    "j": ("an energy", "1.2 GWh"),
    "usd": ("a sum in US dollars", "$1.2 M or 1.2 M USD"),
    "cny": ("a sum in yuan", "30.2 亿元"),
    "usd/h": ("a price in US dollars per hour", "2.5 USD/h"),
    "cny/h": ("a price in yuan per hour", "18 元/h"),
    "usd/kwh": ("a price of energy in US dollars", "0.084 USD/kWh"),
    "cny/kwh": ("a price of energy in yuan", "0.6 元/度"),
    "card_h": ("an amount of card time", "1000 card-hours or 1000 卡时"),
    "1": ("a count", "15T, 70B or 2万亿"),
    "frac": ("a share", "45 % or 0.45"),
}

_NUMBER = re.compile(
    r"(?P<number>[+-]?(?:\d[\d,_]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)(?P<zh>[十百千]?[万亿]亿?|千)?(?P<unit>.*)", re.DOTALL
)
_GROUPED = re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d*)?([eE][+-]?\d+)?")
_EVERY = re.compile(r"(?:每(?P<zh>秒|小时|天|日)|daily)")
_CURRENCY = re.compile(r"(?P<sign>US\$|\$|¥)(?P<rest>.+)", re.DOTALL)
_RATE_PER_TIME = re.compile(
    r"(?P<rate>[a-z]*(?:flops|flop/s(?:ec|econd)?|ops|f)|p|e)/(?:d|days?|天|日|h|hours?|小时|weeks?|周|months?|月|years?|年)",
    re.IGNORECASE,
)


@cache
def _table(unit: str) -> dict[str, float]:
    return _BUILD[unit]()


def _squeeze(text: str) -> str:
    """One spelling for spaces, hyphens, middle dots and 'per'."""
    text = unicodedata.normalize("NFKC", text).strip()
    text = re.sub(r"\s+(?:per|an?)\s+|(?<=.)每", "/", text)
    text = re.sub(r"(?<=\D)\s*[-·•×*_]\s*(?=[^\d\s])", "", text)
    text = re.sub(r"\s+", "", text)
    if every := _EVERY.match(text):
        text = f"{text[every.end() :]}/{every['zh'] or 'day'}"
    if currency := _CURRENCY.match(text):
        head, slash, tail = currency["rest"].partition("/")
        text = head + currency["sign"] + slash + tail
    return text


def _lookup(unit: str, spelling: str) -> set[float]:
    """Factors that ``spelling`` may stand for: exact case first, else any case."""
    table = _table(unit)
    if spelling in table:
        return {table[spelling]}
    if unit == "byte":  # 80 gb: nobody knows whether that is bytes
        table = table | _table("bit")
    folded = spelling.casefold()
    if folded.endswith("bps"):  # only Gbps is clear; GBps and gbps are not
        return set()
    return {factor for name, factor in table.items() if name.casefold() == folded}


def parse(text: str, unit: str, *, where: str | None = None) -> float:
    """The value of ``text`` in ``unit``.

    Parameters
    ----------
    text : a number with its unit, for example ``"80 GiB"``, ``"400 Gb/s"``, ``"3640 PFLOPS-days"``, ``"1.5万亿 tokens"``.
    unit : one of :data:`UNITS`. Only counts (``"1"``) and shares (``"frac"``) may come without a unit.
    where : put in the error, for example the option's name.

    Raises
    ------
    SpecError : not a number, negative, the wrong kind of quantity, or readable in two ways; the hint asks the question.
    """
    if unit not in UNITS:
        raise ValueError(f"no such unit: {unit!r}")
    squeezed = _squeeze(text)
    shown = repr(text if len(text) <= 60 else text[:57] + "...")
    example = f"write for example {_WHAT[unit][1]}"
    if not squeezed:
        raise SpecError("empty value", where=where, hint=example)
    if unit == "s" and (compound := _compound_time(squeezed)) is not None:
        return compound
    match = _NUMBER.fullmatch(squeezed)
    if match is None:
        raise SpecError(f"{shown} is not a number with a unit", where=where, hint=example)
    if "," in match["number"] and not _GROUPED.fullmatch(match["number"]):
        raise SpecError(f"the commas in {shown} do not group thousands", where=where, hint="write 1.5 with a point")
    if match["number"].startswith("-"):
        raise SpecError(f"{shown} is negative", where=where, hint="give a value of zero or more")
    if match["zh"] and match["zh"] not in _ZH:
        raise SpecError(f"unknown magnitude {match['zh']!r} in {shown}", where=where, hint="万, 亿 and 万亿 are known")
    factors = _lookup(unit, match["unit"])
    if len(factors) != 1 or match["unit"].endswith("FLOPs"):
        what, hint = _refusal(match["number"] + (match["zh"] or ""), match["unit"], unit)
        raise SpecError(f"{shown} {what}", where=where, hint=hint or example)
    value = float(match["number"].replace(",", "").replace("_", "")) * _ZH.get(match["zh"] or "", 1.0) * factors.pop()
    if not math.isfinite(value):
        raise SpecError(f"{shown} is too large", where=where, hint="give a finite value")
    return value


def _compound_time(text: str) -> float | None:
    """``3d4h`` or ``1小时30分``: two or more parts, longest first; ``None`` if it is not of that form."""
    parts = re.findall(r"(\d+(?:\.\d+)?)([^\d.,+\-]+)", text)
    if len(parts) < 2 or "".join(a + b for a, b in parts) != text or any(name not in _table("s") for _, name in parts):
        return None
    scales = [_table("s")[name] for _, name in parts]
    if scales != sorted(set(scales), reverse=True):
        return None
    return math.fsum(float(number) * scale for (number, _), scale in zip(parts, scales, strict=True))


def _refusal(number: str, spelling: str, unit: str) -> tuple[str, str]:
    """Why ``spelling`` is not a ``unit``, and what was probably meant (empty: nothing special)."""
    wanted = _WHAT[unit][0]
    other = next((u for u in _BUILD if u != unit and len(_lookup(u, spelling)) == 1), None) if spelling else None
    if not spelling:
        return f"has no unit: {number} what?", f"{wanted} needs its unit; write for example {_WHAT[unit][1]}"
    if rate := _RATE_PER_TIME.fullmatch(spelling):
        return f"asks for {rate['rate']} per time, but {rate['rate']} is already a rate", _amount_hint(number, rate["rate"])
    if spelling.endswith("FLOPs"):
        prefix = spelling[:-5]
        hint = f"did you mean {number} {prefix}FLOP (an amount) or {number} {prefix}FLOPS (a rate)?"
        return "is ambiguous: FLOPs is used for operations and for operations per second", hint
    if unit == "flop" and other == "flop/s":
        return f"is a rate ({spelling}), and an amount of compute is wanted", _amount_hint(number, spelling)
    if unit == "flop/s" and other == "flop":
        return "is an amount of compute, and a rate is wanted", "a rate is FLOP per second; write PFLOPS or PFLOP/s"
    if unit in ("byte", "byte/s"):
        return _refuse_data(number, spelling, unit)
    if other is not None and {unit[:3], other[:3]} == {"usd", "cny"}:
        currency = "yuan" if other.startswith("cny") else "US dollars"
        return f"is in {currency}, and {wanted} is wanted", "no exchange rate is assumed; convert it with the rate you mean"
    if unit == "s" and spelling.casefold() in ("m", "month", "months", "月"):
        return "is not a definite time", "m is ambiguous and months differ in length; write min or d"
    if len(_lookup(unit, spelling)) > 1:
        return "can be read in two ways", "mind upper and lower case: m is milli, M is mega"
    return (f"is {_WHAT[other][0]}, and {wanted} is wanted" if other else f"is not {wanted}"), ""


def _refuse_data(number: str, spelling: str, unit: str) -> tuple[str, str]:
    """Bits, bytes, and rates of either."""
    if spelling.casefold().endswith("bps"):
        prefix = spelling[:-3]
        hint = f"did you mean {number} {prefix}B/s (bytes) or {number} {prefix}b/s (bits)?"
        return f"is ambiguous: {spelling} is read as bytes by some and as bits by others", hint
    if spelling in _SI:
        end = "/s" if unit == "byte/s" else ""
        return "has a prefix but no unit", f"did you mean {number} {spelling}B{end} or {number} {spelling}iB{end}?"
    if unit == "byte" and spelling in _table("bit"):
        prefix = re.sub(r"(?:b|bits?|比特)$", "", spelling)
        name = {"G": "giga", "M": "mega", "T": "tera", "K": "kilo", "k": "kilo"}.get(prefix, prefix)
        return f"is in bits: {spelling} is {name}bits", f"did you mean {number} {prefix}B?"
    if len(_lookup(unit, spelling)) > 1:
        prefix = spelling.partition("/")[0][:-1].upper()
        end = "/s" if unit == "byte/s" else ""
        return "could be bytes or bits", f"did you mean {number} {prefix}B{end} or {number} {prefix}b{end}?"
    if unit == "byte/s" and (spelling in _table("byte") or spelling in _table("bit")):
        return "is an amount, and a data rate is wanted", f"did you mean {number} {spelling}/s?"
    if unit == "byte" and _lookup("byte/s", spelling):
        return "is a data rate, and an amount is wanted", ""
    return f"is not {_WHAT[unit][0]}", ""


def _amount_hint(number: str, rate: str) -> str:
    """What a rate without a time probably meant, worked out for one day."""
    factors = _lookup("flop/s", rate)
    days = f"did you mean {number} {rate}-days"
    if len(factors) == 1:
        days += f" = {parse(number, '1') * factors.pop() * DAY_S:.3g} FLOP"
    return f"an amount is a rate times a time; {days}?"


def _significant(value: float, digits: int) -> str:
    """``value`` with ``digits`` significant digits, no exponent between 1e-4 and 1e6, no trailing zeros."""
    if value == 0:
        return "0"
    magnitude = math.floor(math.log10(abs(value)))
    if not -4 <= magnitude < 6:
        return f"{value:.{digits}g}"
    text = f"{round(value, digits - 1 - magnitude):,.{max(0, digits - 1 - magnitude)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _scaled(value: float, digits: int, scale: Iterable[tuple[float, str]]) -> str:
    """``value`` on the largest step of ``scale`` (ascending) that keeps it at one or more after rounding."""
    steps = list(scale)
    rounded = float(f"{abs(value):.{digits}g}")
    factor, name = next(((f, n) for f, n in reversed(steps) if rounded >= f), steps[0])
    return f"{_significant(value / factor, digits)}{name}"


_METRIC = (("", 1.0), ("k", 1e3), ("M", 1e6), ("G", 1e9), ("T", 1e12), ("P", 1e15), ("E", 1e18), ("Z", 1e21), ("Y", 1e24))
_BIG = {
    "en": ((1.0, ""), (1e3, " K"), (1e6, " M"), (1e9, " B"), (1e12, " T")),
    "zh": ((1.0, ""), (1e4, " 万"), (1e8, " 亿"), (1e12, " 万亿")),
}
_SPAN = {"en": ("d", "h", "min", "s"), "zh": ("天", "小时", "分钟", "秒")}
_NAME = {"byte": "B", "byte/s": "B/s", "flop": "FLOP", "flop/s": "FLOP/s", "w": "W"}


def fmt_byte(value: float, *, binary: bool = False, digits: int = 3) -> str:
    """Bytes: ``85.5 GB``, or ``79.6 GiB`` when ``binary``."""
    if binary:
        names = ("", *_BINARY)
        return _scaled(value, digits, ((1024.0**i, f" {name}B") for i, name in enumerate(names)))
    return _scaled(value, digits, ((factor, f" {name}B") for name, factor in _METRIC))


def fmt_pflops_days(flop: float, *, digits: int = 4) -> str:
    """An amount of compute in PFLOPS-days, the unit papers use: ``3,637 PFLOPS-days``."""
    return f"{_significant(flop / PFLOPS_DAY, digits)} PFLOPS-days"


def _fmt_time(value: float, digits: int, lang: str) -> str:
    """Two parts above a minute (``3 d 4 h``), one below (``12.3 ms``)."""
    if float(f"{abs(value):.{digits}g}") < 60:
        second = "秒" if lang == "zh" else "s"
        steps = [(1.0, f" {second}")] if value == 0 else [(1e-9, " ns"), (1e-6, " us"), (1e-3, " ms"), (1.0, f" {second}")]
        return _scaled(value, digits, steps)
    names, sizes = _SPAN[lang], (DAY_S, 3600.0, 60.0, 1.0)
    whole = round(abs(value))
    # Round to the smaller unit shown before choosing the larger one, so that 59 min 60 s never appears.
    large = next(i for i, size in enumerate(sizes[:3]) if round(whole / sizes[i + 1]) * sizes[i + 1] >= size)
    small = round(abs(value) / sizes[large + 1])
    first, rest = divmod(small, round(sizes[large] / sizes[large + 1]))
    sign = "-" if value < 0 else ""
    text = f"{sign}{first:,} {names[large]}"
    return f"{text} {rest} {names[large + 1]}" if rest and first < 100 else text


def fmt(value: float, unit: str, *, lang: str = "en", digits: int = 3) -> str:
    """``value`` in ``unit`` as people write it; :func:`parse` reads it back to ``digits`` significant digits.

    ``fmt(1.98e15, "flop/s")`` is ``1.98 PFLOP/s``, ``fmt(273600, "s")`` is ``3 d 4 h``, ``fmt(70.6e9, "1")`` is ``70.6 B``,
    and with ``lang="zh"`` it is ``706 亿``.
    """
    if not math.isfinite(value):
        raise ValueError(f"cannot print {value} {unit}")
    if unit in _NAME:
        return _scaled(value, digits, ((factor, f" {prefix}{_NAME[unit]}") for prefix, factor in _METRIC))
    if unit == "s":
        return _fmt_time(value, digits, lang)
    if unit == "j":
        return _scaled(value / 3600.0, digits, ((factor, f" {prefix}Wh") for prefix, factor in _METRIC))
    if unit == "frac":
        return f"{_significant(100 * value, digits)} %"
    big = _scaled(value, digits, _BIG[lang])
    gap = "" if big.endswith(("万", "亿")) else " "
    if unit == "1":
        return big
    if unit == "card_h":
        return f"{big}{gap}卡时" if lang == "zh" else f"{big} card-h"
    money, _, per = unit.partition("/")
    if money not in ("usd", "cny"):
        raise ValueError(f"no such unit: {unit!r}")
    if per:
        big = _significant(value, digits)
    end = {"": "", "h": "/h", "kwh": "/kWh"}[per]
    if lang == "zh":
        return f"{big}{gap}{'美元' if money == 'usd' else '元'}{end}"
    return f"{'$' if money == 'usd' else '¥'}{big}{end}"
