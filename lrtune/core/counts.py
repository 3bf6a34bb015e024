"""Amounts in words."""

from collections.abc import Sequence


def count(amount: float, noun: str) -> str:
    """`1 epoch`, `1.5 epochs`, `12,400 epochs`."""
    digits = f"{amount:,.0f}" if float(amount).is_integer() else f"{amount:.4g}"
    return f"{digits} {noun}" + ("" if amount == 1 else "s")


def some(names: Sequence[str], most: int = 10) -> str:
    """`a, b, c`, or the first of very many: `a, b and 998 more`."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most:,} more"
