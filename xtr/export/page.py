"""Self-contained HTML pages: their frame and style sheet, sections, tables. Nothing is fetched from elsewhere."""

import html
from collections.abc import Sequence

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{{title}}</title>
<style>
:root {
  --page: #f6f7f9; --card: #ffffff; --ink: #1b2230; --quiet: #5b6474; --line: #dfe3ea;
  --up: #2f7ed8; --down: #d9822b; --up-ink: #1a5fae; --down-ink: #a4560a; --notice: #fff4d6; --notice-ink: #5f4400;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #12151b; --card: #1a1f28; --ink: #e7eaf0; --quiet: #9aa4b5; --line: #303847;
    --up: #4a97ee; --down: #e0913f; --up-ink: #7db6f7; --down-ink: #f0aa62; --notice: #3a3013; --notice-ink: #f3dfa6;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
}
main { max-width: 1240px; margin: 0 auto; padding: 24px 20px 64px; }
header { margin-bottom: 20px; }
h1 { font-size: clamp(1.45rem, 4vw, 2rem); line-height: 1.2; margin: 8px 0 14px; }
h2 { font-size: 1.15rem; margin: 0 0 12px; }
.answer { font-size: clamp(1.02rem, 2.2vw, 1.2rem); margin: 0 0 10px; max-width: 62em; }
.notice {
  background: var(--notice); color: var(--notice-ink); border-left: 4px solid var(--down);
  padding: 10px 14px; border-radius: 4px; white-space: pre-line;
}
section {
  background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 18px 20px; margin: 0 0 16px;
}
.note, .quiet { color: var(--quiet); font-size: .86rem; }
.note { margin: 12px 0 0; max-width: 70em; }
.scroll { overflow-x: auto; margin: 0 -4px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .93rem; }
th, td { padding: 7px 10px; text-align: right; vertical-align: top; border-bottom: 1px solid var(--line); }
tbody tr:last-child > * { border-bottom: 0; }
thead th { color: var(--quiet); font-weight: 600; vertical-align: bottom; min-width: 5.2em; }
th:first-child { text-align: left; position: sticky; left: 0; background: var(--card); font-weight: 600; }
td small { color: var(--quiet); white-space: nowrap; font-size: .8rem; }
.mean { font-style: italic; }
.score, .gain, .chance { display: block; white-space: nowrap; }
.gain.up { color: var(--up-ink); } .gain.down { color: var(--down-ink); }
.chance { font-size: .78rem; color: var(--quiet); }
td.none { color: var(--quiet); text-align: center; }
td.heat { text-align: center; border: 2px solid var(--card); border-radius: 6px; }
td.heat.strong { font-weight: 700; }
table:has(td.heat) thead th:not(:first-child) { text-align: center; }
h3 { font-size: 1rem; margin: 14px 0 6px; }
@media (min-width: 561px) { tbody th { white-space: nowrap; } }
th[tabindex] { cursor: pointer; }
th[aria-sort="descending"]::after { content: " ▾"; }
th[aria-sort="ascending"]::after { content: " ▴"; }
.samples th { text-align: left; }
.samples td { text-align: left; white-space: pre-wrap; overflow-wrap: anywhere; min-width: 9em; max-width: 28em; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 30em), 1fr)); gap: 0 16px; }
.pair > section { min-width: 0; }
figure { margin: 0 0 8px; }
summary { cursor: pointer; font-weight: 600; }
details[open] > summary { margin-bottom: 12px; }
summary small { color: var(--quiet); font-weight: 400; }
ul { margin: 0; padding-left: 1.2em; } li { margin: 3px 0; }
dl { margin: 0; display: grid; grid-template-columns: minmax(8em, max-content) 1fr; gap: 6px 18px; }
dt { color: var(--quiet); } dd { margin: 0; overflow-wrap: anywhere; min-width: 0; }
pre { overflow: auto; max-height: 28em; font-size: .82rem; margin: 0; white-space: pre; }
@media (max-width: 560px) {
  main { padding: 12px 10px 40px; }
  section { padding: 14px 12px; border-radius: 8px; }
  th, td { padding: 6px 8px; }
  .score small, .gain small { display: block; }
  th:first-child { min-width: 7.4em; max-width: 9em; overflow-wrap: break-word; }
  dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: 8px; }
}
@media print { body { background: #fff; } section { break-inside: avoid; } }
</style>
</head>
<body><main>
{{body}}
</main></body>
</html>
"""


def page(title: str, body: Sequence[str], script: str = "") -> str:
    """A whole page.

    Args:
      body: HTML of its parts; empty ones are left out.
      script: JavaScript that runs once the page is there.
    """
    parts = [part for part in body if part] + [f"<script>{script}</script>"] * bool(script)
    return _PAGE.replace("{{title}}", text(title)).replace("{{body}}", "\n".join(parts))


def text(value: object) -> str:
    """A value as HTML text."""
    return html.escape(str(value))


def section(title: str, content: str, note: str = "") -> str:
    """A card with a title; content and note are HTML."""
    note = f'<p class="note">{note}</p>' if note else ""
    return f"<section><h2>{text(title)}</h2>{content}{note}</section>"


def folded(title: str, small: str, content: str) -> str:
    """A card that opens on a click."""
    summary = f"<summary>{text(title)} <small>({text(small)})</small></summary>"
    return f"<section><details>{summary}{content}</details></section>"


def table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table in a box that scrolls sideways; the first cell of each line is its heading. Cells are HTML."""
    head = "".join(f'<th scope="col">{cell}</th>' for cell in header)
    body = "".join(
        f'<tr><th scope="row">{line[0]}</th>' + "".join(c if c.startswith("<td") else f"<td>{c}</td>" for c in line[1:])
        + "</tr>"
        for line in lines
    )  # fmt: skip
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
