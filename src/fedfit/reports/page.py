"""Template and style sheet of ``report.html``: no scripts, no external files."""

from __future__ import annotations

from string import Template

CSS = """
:root {
  color-scheme: light dark;
  --paper: #fafaf8; --card: #ffffff; --ink: #1d2126; --soft: #5d6670; --line: #e1e3e6;
  --accent: #0072b2; --warn: #b34a00;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #15181c; --card: #1d2126; --ink: #e7e9ec; --soft: #9aa4af; --line: #333a42;
    --accent: #6bb8e8; --warn: #f0a060;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 68rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
}
header { border-bottom: 1px solid var(--line); margin-bottom: 1.5rem; padding-bottom: 1rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.75rem 0 .75rem; }
p.state, p.note { color: var(--soft); margin: .35rem 0 0; }
p.state strong { color: var(--accent); font-weight: 600; }
p.state strong.open { color: var(--warn); }
dl.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); gap: .75rem; margin: 0; }
dl.tiles > div { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: .7rem .9rem; }
dl.tiles dt { color: var(--soft); font-size: .8rem; }
dl.tiles dd { font-size: 1.3rem; font-weight: 600; font-variant-numeric: tabular-nums; line-height: 1.3; margin: 0; }
dl.tiles dd small { color: var(--soft); display: block; font-size: .8rem; font-weight: 400; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1rem; }
figure { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; margin: 0; overflow: hidden; }
figure.wide { grid-column: 1 / -1; }
figure img { background: #ffffff; display: block; height: auto; padding: .75rem; width: 100%; }
figcaption { border-top: 1px solid var(--line); color: var(--soft); font-size: .9rem; padding: .6rem .9rem; }
figcaption b { color: var(--ink); }
.scroll {
  background: var(--card); border: 1px solid var(--line); border-radius: .6rem; max-height: 36rem; overflow: auto;
}
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; width: 100%; }
th, td { padding: .35rem .45rem; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { padding-left: .9rem; }
th:last-child, td:last-child { padding-right: .9rem; }
thead th {
  background: var(--card); box-shadow: 0 1px var(--line); color: var(--soft); font-size: .8rem; font-weight: 600;
  line-height: 1.3; position: sticky; top: 0; vertical-align: bottom; white-space: normal;
}
tbody tr + tr > * { border-top: 1px solid var(--line); }
table.text th, table.text td, td.text, th.text, td.label, th.label { text-align: left; white-space: normal; }
table.text td, td.text { overflow-wrap: anywhere; }
td.label { max-width: 14rem; overflow-wrap: break-word; }
td.text { min-width: 6rem; vertical-align: top; }
table.dense { font-size: .76rem; }
table.dense th, table.dense td { padding-left: .28rem; padding-right: .28rem; }
table.dense thead th { font-size: .72rem; }
table.dense td.text { min-width: 5rem; }
table.text th { color: var(--soft); font-weight: 400; width: 40%; }
pre { font: .85rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; margin: 0; padding: .9rem 1.1rem; }
details { margin-top: .5rem; }
summary { color: var(--soft); cursor: pointer; font-size: .9rem; margin-bottom: .35rem; }
.pair { display: grid; gap: 0 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); }
.pair > section { min-width: 0; }
footer { color: var(--soft); font-size: .85rem; margin-top: 3rem; }
@media print {
  body { max-width: none; }
  .scroll { max-height: none; overflow: visible; }
  figure { break-inside: avoid; }
}
"""

PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title · fedfit</title>
<style>$css</style>
</head>
<body>
<header>
<h1>$title</h1>
<p class="state">$state</p>
</header>
<main>
<dl class="tiles">
$tiles
</dl>
<section>
<h2>Figures</h2>
<div class="figures">
$figures
</div>
</section>
$closer
<section>
<h2>Rounds</h2>
$rounds
</section>
<section>
<h2>Devices</h2>
$devices
</section>
<div class="pair">
<section>
<h2>Recipe</h2>
$recipe
</section>
<section>
<h2>Environment</h2>
$environment
</section>
</div>
</main>
<footer>Written by fedfit from the run folder alone; <code>fedfit report</code> writes it again.</footer>
</body>
</html>
""")
