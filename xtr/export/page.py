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
  --page: #f6f7f9; --card: #ffffff; --ink: #1b2230; --quiet: #5b6474; --line: #dfe3ea; --link: #1a5fae;
  --up: #2f7ed8; --down: #d9822b; --up-ink: #1a5fae; --down-ink: #a4560a; --notice: #fff4d6; --notice-ink: #5f4400;
  --shade: rgb(20 30 50 / .16); --good: #e2f1e6; --good-ink: #1d6238; --bad: #fbe6da; --bad-ink: #8a3c0c;
  --open: #e9ebf0; --open-ink: #454d5c;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #12151b; --card: #1a1f28; --ink: #e7eaf0; --quiet: #a3adbd; --line: #303847; --link: #8cc0fa;
    --up: #2f78cc; --down: #b8702a; --up-ink: #7db6f7; --down-ink: #f0aa62; --notice: #3a3013; --notice-ink: #f3dfa6;
    --shade: rgb(0 0 0 / .55); --good: #17392a; --good-ink: #a4e0ba; --bad: #45260f; --bad-ink: #f6bd92;
    --open: #2b323e; --open-ink: #c7cedb;
  }
}
* { box-sizing: border-box; }
html { scroll-behavior: smooth; -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
}
a { color: var(--link); text-decoration: none; } a:hover { text-decoration: underline; }
main { max-width: 1240px; margin: 0 auto; padding: 24px 20px 64px; }
header { margin-bottom: 20px; }
h1 { font-size: clamp(1.45rem, 4vw, 2rem); line-height: 1.2; margin: 8px 0 14px; }
h2 { font-size: 1.15rem; margin: 0 0 12px; }
h3 { font-size: 1rem; margin: 16px 0 6px; }
section { scroll-margin-top: 12px; }
.answer { font-size: clamp(1.02rem, 2.2vw, 1.16rem); line-height: 1.45; margin: 0 0 10px; max-width: 62em; }
.answers { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 23em), 1fr)); gap: 16px; }
.answers > section { display: flex; flex-wrap: wrap; gap: 8px 28px; align-items: flex-start; margin: 0; min-width: 0; }
.answers > section > * { flex: 1 1 20em; min-width: 0; }
.answers figure { margin: 0; }
.answers + * { margin-top: 14px; }
.verdict {
  display: inline-block; margin: 0 0 10px; padding: 2px 12px; border-radius: 99px; font-weight: 650;
  background: var(--open); color: var(--open-ink);
}
.verdict.persists, .verdict.grows { background: var(--good); color: var(--good-ink); }
.verdict.shrinks, .verdict.vanishes { background: var(--bad); color: var(--bad-ink); }
.notice {
  background: var(--notice); color: var(--notice-ink); border-left: 4px solid var(--down);
  padding: 10px 14px; border-radius: 4px; white-space: pre-line;
}
nav { margin: 0 0 16px; }
nav ol { list-style: none; display: flex; flex-wrap: wrap; gap: 6px; margin: 0; padding: 0; font-size: .9rem; }
nav li { margin: 0; }
nav a {
  display: block; padding: 4px 12px; border: 1px solid var(--line); border-radius: 99px; background: var(--card);
}
section {
  background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 18px 20px; margin: 0 0 16px;
}
.note, .quiet { color: var(--quiet); font-size: .86rem; }
.note { margin: 12px 0 0; max-width: 70em; }
header > ul { color: var(--quiet); font-size: .9rem; }
:is(.part, details, .beside, .note, figure) + .part, :is(.part, .beside) + :is(details, .beside) { margin-top: 18px; }
.scroll {
  overflow-x: auto; margin: 0 -4px;
  background:
    linear-gradient(to left, var(--card) 30%, transparent) right / 2.5em 100% no-repeat local,
    linear-gradient(to left, var(--shade), transparent) right / .8em 100% no-repeat scroll;
}
.scroll:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .93rem; }
th, td { padding: 7px 10px; text-align: right; vertical-align: top; border-bottom: 1px solid var(--line); }
tbody tr:last-child > * { border-bottom: 0; }
thead th { color: var(--quiet); font-weight: 600; vertical-align: bottom; min-width: 5.2em; }
th:first-child { text-align: left; position: sticky; left: 0; z-index: 1; background: var(--card); font-weight: 600; }
td small { color: var(--quiet); white-space: nowrap; font-size: .86em; }
td.text { white-space: nowrap; }
td.long { white-space: normal; text-align: left; min-width: 15em; }
.head { display: inline-block; max-width: 8em; overflow-wrap: break-word; }
.head.left { display: block; text-align: left; }
.mean { font-style: italic; }
.score, .gain, .chance { display: block; white-space: nowrap; }
.gain.up { color: var(--up-ink); } .gain.down { color: var(--down-ink); }
.chance { font-size: .84em; color: var(--quiet); }
td.none { color: var(--quiet); text-align: center; }
td.heat { text-align: center; vertical-align: middle; white-space: nowrap; }
td.heat { border: 2px solid var(--card); border-radius: 6px; }
td.heat.up { background: color-mix(in srgb, var(--up) var(--share), var(--card)); }
td.heat.down { background: color-mix(in srgb, var(--down) var(--share), var(--card)); }
td.heat.strong { font-weight: 700; }
table:has(td.heat) thead th:not(:first-child) { text-align: center; }
table:has(td.heat) { font-size: .9rem; } table:has(td.heat) :is(th, td) { padding: 6px; }
table:has(td.heat) thead th { min-width: 4.2em; }
@media (min-width: 561px) { tbody th { min-width: 7em; } }
th[tabindex] { cursor: pointer; }
th[aria-sort="descending"]::after { content: " ▾"; }
th[aria-sort="ascending"]::after { content: " ▴"; }
.samples th { text-align: left; }
.samples td { text-align: left; white-space: pre-wrap; overflow-wrap: anywhere; min-width: 9em; max-width: 28em; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 30em), 1fr)); gap: 0 16px; }
.pair > section { min-width: 0; }
.beside { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 16.5em), 1fr)); gap: 12px 24px; }
.beside.large { grid-template-columns: repeat(auto-fit, minmax(min(100%, 25em), 1fr)); }
.beside > * { min-width: 0; margin-top: 0; }
figure { margin: 0 0 8px; }
summary { cursor: pointer; font-weight: 600; }
details { margin: 4px 0; }
details[open] > summary { margin-bottom: 12px; }
details details { margin: 4px 0 4px 1em; }
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
  th:first-child { min-width: 6.6em; max-width: 8.5em; overflow-wrap: break-word; }
  dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: 8px; }
  nav ol { flex-wrap: nowrap; overflow-x: auto; padding-bottom: 6px; } nav li { flex: none; }
}
@media print {
  :root {
    --page: #fff; --card: #fff; --ink: #000; --quiet: #444; --line: #ccc; --up: #2f7ed8; --down: #d9822b;
    --up-ink: #1a5fae; --down-ink: #a4560a; --shade: transparent; color-scheme: light;
  }
  body { font-size: 10pt; } main { max-width: none; padding: 0; }
  nav { display: none; }
  section { border: 0; padding: 0; margin: 0 0 18pt; }
  figure, tr, .answers > section { break-inside: avoid; } h2, h3 { break-after: avoid; }
  .scroll { overflow: visible; background: none; }
  table, table:has(td.heat) { font-size: 7.5pt; } th, td { padding: 2pt 3pt; }
  thead th, table:has(td.heat) thead th { min-width: 0; } pre { max-height: none; white-space: pre-wrap; }
  td.heat, .verdict { print-color-adjust: exact; }
}
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


def section(title: str, content: str, note: str = "", anchor: str = "") -> str:
    """A card with a title; content and note are HTML, `anchor` is what links point to."""
    note = f'<p class="note">{note}</p>' if note else ""
    place = f' id="{text(anchor)}"' if anchor else ""
    return f"<section{place}><h2>{text(title)}</h2>{content}{note}</section>"


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
    return f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
