"""A line for each series under one another, as SVG."""

from html import escape

WIDTH, HEIGHT, LEFT, GAP, TOP = 860, 120, 60, 44, 48
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#444}.title{font-size:15px;font-weight:600;fill:#111}"
    ".grid{stroke:#ddd}.line{fill:none;stroke:#2563a8;stroke-width:1.5}.fault{stroke:#d9822b;stroke-opacity:.55}"
)


def slope(points):
    """Of the line that fits best, by least squares."""
    count = len(points)
    x, y = sum(at for at, _ in points) / count, sum(value for _, value in points) / count
    spread = sum((at - x) ** 2 for at, _ in points)
    return sum((at - x) * (value - y) for at, value in points) / spread if spread else 0.0


def draw(title, series, marks):
    """The picture: `series` is name -> (seconds, value) pairs, `marks` are instants."""
    end = max(at for points in series.values() for at, _ in points) or 1
    across = lambda at: LEFT + (WIDTH - LEFT - 20) * at / end  # noqa: E731
    height = TOP + len(series) * (HEIGHT + GAP)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}"><style>{STYLE}</style>']
    parts += ['<rect width="100%" height="100%" fill="#fff"/>', f'<text class="title" x="20" y="24">{escape(title)}</text>']
    for number, (name, points) in enumerate(series.items()):
        top = TOP + number * (HEIGHT + GAP)
        parts += panel(name, points, top, across, [across(at) for at in marks])
    parts += [f'<text x="{across(minute * 60):.0f}" y="{height - 8}" text-anchor="middle">{minute} min</text>' for minute in minutes(end)]
    return "\n".join([*parts, "</svg>\n"])


def panel(name, points, top, across, marks):
    """One series with a scale from 0."""
    highest = max(value for _, value in points) * 1.15 or 1
    down = lambda value: top + 16 + HEIGHT * (1 - value / highest)  # noqa: E731
    yield f'<text x="{LEFT}" y="{top + 8}">{escape(name)}</text>'
    for share in (0, 0.5, 1):
        y = down(highest * share)
        yield f'<path class="grid" d="M{LEFT} {y:.0f}H{WIDTH - 20}"/>'
        yield f'<text x="{LEFT - 8}" y="{y + 4:.0f}" text-anchor="end">{highest * share:.0f}</text>'
    bottom = down(0)
    yield f'<path class="fault" d="{"".join(f"M{x:.0f} {bottom:.0f}v-6" for x in marks)}"/>'
    line = " ".join(f"{across(at):.1f},{down(value):.1f}" for at, value in points)
    yield f'<polyline class="line" points="{line}"/>'


def minutes(end):
    """Some round ones."""
    step = next(step for step in (1, 2, 5, 10, 20, 60) if end / 60 / step <= 8)
    return range(0, int(end // 60) + 1, step)
