"""Amounts in words."""


def count(amount: float, noun: str) -> str:
    """`1 epoch`, `1.5 epochs`, `12,400 epochs`."""
    digits = f"{amount:,.0f}" if float(amount).is_integer() else f"{amount:.4g}"
    return f"{digits} {noun}" + ("" if amount == 1 else "s")
