"""A histogram of latencies as SVG. Numbers in, text out."""

from __future__ import annotations

from html import escape
from typing import Final

from .latencies import PERCENTILES, Latencies, short

WIDTH: Final = 720
HEIGHT: Final = 360
LEFT, RIGHT, TOP, BOTTOM = 60, 20, 56, 48
BUCKETS: Final = 40

STYLE: Final = (
    "text{font:12px system-ui,sans-serif;fill:#333}.title{font-size:14px;font-weight:600}"
    ".bar{fill:#3b7dd8}.mark{stroke:#c33;stroke-dasharray:4 3}.axis{stroke:#888}"
    "@media(prefers-color-scheme:dark){text{fill:#ddd}.back{fill:#1b1b1b}}"
)


def svg(latencies: Latencies, title: str) -> str:
    """The picture: a bar for each bucket, a line for each percentile."""
    buckets = latencies.histogram(BUCKETS)
    most = max((bucket.count for bucket in buckets), default=1)
    wide = (WIDTH - LEFT - RIGHT) / max(len(buckets), 1)
    high = HEIGHT - TOP - BOTTOM
    floor = HEIGHT - BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        f"<title>{escape(title)}</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="back" width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<text class="title" x="{LEFT}" y="22">{escape(title)}</text>',
    ]
    for index, bucket in enumerate(buckets):
        tall = high * bucket.count / most
        told = f"{short(bucket.low)} to {short(bucket.high)}: {bucket.count:,} calls"
        parts.append(
            f'<rect class="bar" x="{LEFT + index * wide:.1f}" y="{floor - tall:.1f}" '
            f'width="{max(wide - 1, 0.5):.1f}" height="{tall:.1f}"><title>{told}</title></rect>'
        )
    parts.append(f'<line class="axis" x1="{LEFT}" y1="{floor}" x2="{WIDTH - RIGHT}" y2="{floor}"/>')
    parts += [
        _text(LEFT + index * wide, floor + 18, short(buckets[index].low))
        for index in range(0, len(buckets), max(len(buckets) // 5, 1))
    ]
    parts += [
        _text(LEFT - 6, floor - high * part + 4, f"{number:,}", "end")
        for number, part in ((most, 1.0), (most // 2, 0.5))
    ]
    parts += _marks(latencies, wide, floor)
    parts.append(
        _text(WIDTH / 2, HEIGHT - 8, "time of a call (each bar is wider by the same factor)")
    )
    return "\n".join([*parts, "</svg>", ""])


def _marks(latencies: Latencies, wide: float, floor: float) -> list[str]:
    """A line for each percentile; names on two heights, since they crowd."""
    buckets = latencies.histogram(BUCKETS)
    lines = []
    for number, percent in enumerate(PERCENTILES):
        time = latencies.percentile(percent)
        index = next((i for i, each in enumerate(buckets) if time <= each.high), len(buckets) - 1)
        at = LEFT + (index + 0.5) * wide
        top = TOP - 4 - 12 * (number % 2)
        lines.append(f'<line class="mark" x1="{at:.1f}" y1="{TOP}" x2="{at:.1f}" y2="{floor}"/>')
        lines.append(_text(at, top, f"p{percent:g}"))
    return lines


def _text(x: float, y: float, text: str, anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
