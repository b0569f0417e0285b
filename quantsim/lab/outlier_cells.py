"""What tables of an inspection say of the outliers of a tensor."""

from typing import Any


def crest(row: dict[str, Any]) -> float:
    """How far the largest weight stands out, by which tables are ordered."""
    return row["crest"]


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """Shape, type, size, crest factor and the one expected, kurtosis, shares, family and distance from it."""
    return (
        "×".join(map(str, row["shape"])),
        row["type"],
        f"{row['sigma']:.3g}",
        f"{row['crest']:.1f}",
        f"{row['expected_crest']:.1f}",
        f"{row['kurtosis']:.1f}",
        f"{row['beyond_3']:.2%}",
        f"{row['beyond_10']:.2g}",
        row["family"],
        f"{row['distance']:.3f}",
    )
