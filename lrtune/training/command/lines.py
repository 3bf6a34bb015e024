"""Finds the values of metrics in a line of output.

A value is a number with a name before it: `val loss 2.07`, `val_loss=2.07`, `"val_loss": 2.07`. All
rules take time that grows linearly with the length of the line.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from lrtune.core.objective import directions_of

MAX_CHARACTERS = 10_000
"""Later characters of a line are not looked at, unless the line is JSON."""
_MAX_WORDS = 4
"""Names with more words are sentences."""
_EVALUATION = frozenset(
    ("val", "valid", "validation", "eval", "evaluation", "test", "testing", "dev", "holdout")
)
_COUNTERS = frozenset(
    ("epoch", "epochs", "step", "steps", "iter", "iters", "iteration", "iterations", "batch",
     "batches", "time", "eta", "seed", "rank", "pid", "lr", "mem", "memory", "dataloader",
     "runtime", "second", "seconds", "num", "version", "params", "gpu", "cuda", "port")
)  # fmt: skip
_LEVELS = frozenset(
    ("TRACE", "DEBUG", "INFO", "SUCCESS", "NOTICE", "WARN", "WARNING", "ERROR", "CRITICAL")
)
_SUMMARY = "*"
"""The label of lines such as ` * Acc@1 71.080`, with which many scripts end an evaluation."""


@dataclass(frozen=True, kw_only=True)
class Value:
    """A number that a line gives for a name."""

    name: str
    """As printed."""
    value: float
    label: str = ""
    """What the line says about its values: `Test` in `Test: [10/20] loss 0.5`."""

    @property
    def key(self) -> str:
        """The normalised name."""
        return normalised(self.name)

    @property
    def qualified_key(self) -> str:
        """The normalised name with the label before it."""
        return self.key if self.label == _SUMMARY else normalised(f"{self.label} {self.name}")

    @property
    def is_evaluation(self) -> bool:
        """Whether name or label say that it was measured on held-out data."""
        return self.label == _SUMMARY or not _EVALUATION.isdisjoint(words_of(self.qualified_key))

    @property
    def is_counter(self) -> bool:
        """Whether the name is that of a counter or of a setting, and not of a metric."""
        return not _COUNTERS.isdisjoint(words_of(self.key))

    @property
    def is_metric_like(self) -> bool:
        """Whether the name has a word by which metrics are usually known, such as `loss`."""
        return bool(
            directions_of(self.key) or directions_of(re.sub(r"(?<=[a-z])@?\d+$", "", self.key))
        )


@dataclass(frozen=True, kw_only=True)
class ParsedLine:
    """All values of a line."""

    values: tuple[Value, ...] = ()
    epoch: int | None = None
    """The epoch that the line counts."""
    counts_batches: bool = False
    """Whether the line counts the batches of an epoch: `Epoch: [3][100/391] loss 0.5`."""

    def find(self, key: str) -> Value | None:
        """Returns the value of a metric; `None` where the line has none, or several.

        Args:
            key: its normalised name, with or without a label before it.
        """
        matches = [value for value in self.values if value.qualified_key == key]
        matches = matches or [value for value in self.values if value.key == key]
        if len({value.label for value in matches}) > 1:
            matches = [value for value in matches if value.is_evaluation]
            if len({value.label for value in matches}) > 1:
                return None
        return matches[-1] if matches else None


def visible(line: str) -> str:
    """Returns what a terminal shows of a line.

    Colours are dropped, and so is text that was rewritten after a carriage return.
    """
    return _ESCAPE.sub("", line).rstrip("\r\n").rpartition("\r")[2]


def normalised(name: str) -> str:
    """Returns a name such that different spellings of it are equal.

    Case does not matter, and blanks, slashes, hyphens and underscores are the same.

    Example:
        >>> [normalised(name) for name in ("Val Loss:", "val/loss", "val-loss", "Acc@1")]
        ['val_loss', 'val_loss', 'val_loss', 'acc@1']
    """
    return re.sub(r"(?:[^\w@.^%+]|_)+", "_", name.lower()).strip("_.")


def words_of(key: str) -> list[str]:
    """Returns the words of a normalised name."""
    return key.split("_")


def values_in(line: str) -> dict[str, float]:
    """Returns the values of a line by their names as printed.

    Example:
        >>> values_in("step 250: train loss 2.0712, val loss 2.0997")
        {'step': 250.0, 'train loss': 2.0712, 'val loss': 2.0997}
    """
    return {value.name: value.value for value in parse(line).values}


def parse(line: str) -> ParsedLine:
    """Returns what a line says: a JSON object, or text."""
    text = visible(line).strip()
    if text.startswith("{") and text.endswith("}"):
        try:
            content = json.loads(text)
        except (ValueError, RecursionError):
            pass  # the representation of a Python dictionary, or no object at all
        else:
            values = tuple(Value(name=name, value=value) for name, value in numbers_in(content))
            return ParsedLine(values=values, epoch=_epoch_of(values))
    return _Text(text[:MAX_CHARACTERS]).parsed()


def numbers_in(content: Any, prefix: str = "", *, depth: int = 0) -> Iterator[tuple[str, float]]:
    """Yields the numbers of a JSON object; `{"val": {"loss": 0.5}}` has the name `val/loss`."""
    if not isinstance(content, Mapping) or depth > 8:
        return
    for name, value in content.items():
        full_name = f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from numbers_in(value, f"{full_name}/", depth=depth + 1)
        elif (number := as_number(value)) is not None:
            yield full_name, number


def as_number(value: object) -> float | None:
    """Returns a number, or a text that is one, as a float; `None` for anything else.

    A percent sign is dropped. Commas are accepted only where they can be nothing but thousands
    separators: `1,234.5` and `1,234,567`, but not `1,234`.
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        try:
            return float(value)
        except OverflowError:
            return math.inf if value > 0 else -math.inf
    if not isinstance(value, str):
        return None
    match = _NUMBER.fullmatch(value.strip())
    return float(match[1].replace(",", "")) if match else None


_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
_NUMBER = re.compile(
    r"([+-]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?"
    r"|[1-9][0-9]{0,2}(?:(?:,[0-9]{3})+\.[0-9]+|(?:,[0-9]{3}){2,})"
    r"|nan|inf(?:inity)?))\s?%?",
    re.IGNORECASE,
)
_PROCESS = re.compile(r"(?:rank|default|gpu|worker|node|local_rank) ?[0-9]+|root|__main__", re.I)
"""Labels that tell which process or logger printed the line, and nothing of its values."""
_RATIO = re.compile(r"([0-9]+)/([0-9]+)")
_TIME = re.compile(r"(?<![0-9])[0-9]{1,4}:[0-9]{2}(?::[0-9]{2})?(?:[.,][0-9]+)?(?![0-9])")
_PLACE = re.compile(
    r"(?<![\w.<>/-])(?:[\w.<>]+:[\w.<>]+:[0-9]+(?![.0-9])|[\w./-]+\.py:[0-9]+)"
    r"|\(\w+ pid=[0-9]+[^()]*\)"
)
_CALL = re.compile(r"(?<![\w.])(?:tensor|(?:np|numpy)\.\w+)\(\s*([^(),\s]+)\s*(?:,[^()]*)?\)")
_PERCENT_UNIT = re.compile(r"[(\[]\s?%\s?[)\]]")
_QUOTES = str.maketrans("", "", "\"'`")
_TOKEN = re.compile(
    r"(?P<number>[+-]?(?:[0-9]|\.[0-9])(?:[\w@./^%+-]|,(?=[0-9]))*)"
    r"|(?P<infinite>[+-]?(?:nan|inf(?:inity)?)(?![\w@./^-]))"
    r"|(?P<word>[^\W0-9](?:[\w@./^+-])*(?:\([\w@.%^-]{1,40}\))?)"
    r"|(?P<mark>\S)",
    re.IGNORECASE,
)


class _Text:
    """A reader of one line of text, which goes through its tokens once."""

    def __init__(self, text: str):
        self.is_bar = "%|" in text
        text = _PLACE.sub(" ; ", _CALL.sub(r"\1", text.translate(_QUOTES)))
        text = _PERCENT_UNIT.sub(" ", _TIME.sub(" ; ", text))
        self.tokens: list[tuple[str, str, str]] = []
        """Kind, text, and the blanks before it."""
        end = 0
        for match in _TOKEN.finditer(text):
            self.tokens.append((match.lastgroup or "", match[0], text[end : match.start()]))
            end = match.end()
        self.values: list[Value] = []
        self.averages: dict[int, float] = {}
        self.words: list[str] = []
        self.has_sign = False  # whether a colon or an equals sign follows the words
        self.label = _SUMMARY if text.startswith("*") else ""
        self.epoch: int | None = None
        self.has_counter = False
        self.counts_batches = False

    def parsed(self) -> ParsedLine:
        """Reads the line."""
        position = 0
        while position < len(self.tokens):
            kind, token, gap = self.tokens[position]
            if kind == "word":
                self._word(token.rstrip(".-+/"), gap)
            elif kind == "mark":
                self._mark(token, position)
            else:
                position += self._number(token, position)
            position += 1
        values = self.values
        if self.has_counter:  # a line of progress has the average over the epoch in parentheses
            values = [
                replace(value, value=self.averages.get(index, value.value))
                for index, value in enumerate(values)
            ]
        counts_batches = self.counts_batches and self.epoch is not None and not self.is_bar
        return ParsedLine(values=tuple(values), epoch=self.epoch, counts_batches=counts_batches)

    def _word(self, word: str, gap: str) -> None:
        if word in _LEVELS:
            self._forget_words()
            return
        if self.has_sign:
            self._take_label()
        elif "\t" in gap or len(gap) > 1:  # columns
            self._forget_words()
        self.words.append(word)

    def _mark(self, mark: str, position: int) -> None:
        if mark in ":=" and self.words and not self.has_sign:
            self.has_sign = True
            return
        if mark == "[":
            self._bracket(position)
        if self.words and mark not in ",;" and (self.has_sign or mark in "[](|"):
            self._take_label()
        self._forget_words()

    def _bracket(self, position: int) -> None:
        """Takes note of a counter in brackets: `Epoch: [3]`, `[10/391]`, `[ 64/6000 (1%)]`."""
        token = self._token(position + 1)
        if (ratio := _RATIO.fullmatch(token)) is None and self._token(position + 2) != "]":
            return
        if ratio is None and not token.isdecimal():
            return
        before = self._token(position - 1)
        if ratio is not None and self.epoch is None and before.isdecimal() and self.values:
            self.epoch = int(before[:18])  # `Train: 3 [ 64/6000 (1%)]`
            self.label = self.values[-1].name
        name = " ".join(self.words)
        self._count(name or self.label, ratio[1] if ratio else token, is_ratio=ratio is not None)

    def _count(self, name: str, number: str, *, is_ratio: bool) -> None:
        self.has_counter = True
        if self.epoch is None and "epoch" in words_of(normalised(name)):
            self.epoch = int(number[:18])
        elif is_ratio:
            self.counts_batches = True

    def _number(self, token: str, position: int) -> int:
        """Reads a number, and what belongs to it. Returns the number of further tokens."""
        name = " ".join(self.words)
        is_sentence = len(self.words) > (_MAX_WORDS if not self.has_sign else 2 * _MAX_WORDS)
        self._forget_words()
        ratio = _RATIO.fullmatch(token)
        number = float(ratio[1]) if ratio else as_number(token.rstrip("."))
        if number is None:
            return 0
        in_parentheses, is_percent, num_tokens = self._parentheses(position)
        if not name or is_sentence:
            return num_tokens
        value = Value(name=name, value=number, label=self.label)
        if not value.is_counter:
            if ratio and is_percent and float(ratio[2]):  # exact, where the percentage is rounded
                value = replace(value, value=100 * number / float(ratio[2]))
            elif ratio and value.is_metric_like and float(ratio[2]):
                value = replace(value, value=number / float(ratio[2]))
            elif in_parentheses is not None and not is_percent and not ratio:
                self.averages[len(self.values)] = in_parentheses
        elif ratio or (number.is_integer() and self.epoch is None):
            has_epoch = self.epoch is not None
            if ratio or "epoch" in words_of(value.key):
                self._count(name, ratio[1] if ratio else str(int(number)), is_ratio=bool(ratio))
                self.has_counter = has_epoch or bool(ratio)
        self.values.append(value)
        return num_tokens

    def _parentheses(self, position: int) -> tuple[float | None, bool, int]:
        """Returns the number in parentheses after a number, if it is a percentage, its tokens."""
        if self._token(position + 1) != "(":
            return None, False, 0
        token = self._token(position + 2)
        number = as_number(token)
        has_sign = self._token(position + 3) == "%"
        if number is None or self._token(position + 3 + has_sign) != ")":
            return None, False, 0
        return number, has_sign or token.endswith("%"), 3 + has_sign

    def _token(self, position: int) -> str:
        return self.tokens[position][1] if 0 <= position < len(self.tokens) else ""

    def _take_label(self) -> None:
        label = " ".join(self.words)
        if not _PROCESS.fullmatch(label):
            self.label = label
        self._forget_words()

    def _forget_words(self) -> None:
        self.words, self.has_sign = [], False


def _epoch_of(values: tuple[Value, ...]) -> int | None:
    numbers = (value.value for value in values if value.key == "epoch")
    return next((int(number) for number in numbers if math.isfinite(number)), None)
