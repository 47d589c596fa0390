"""The HTML template of the report. It has plain CSS and loads nothing from elsewhere."""

from string import Template

PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>$title</title>
<style>
:root { --ink: #1d2430; --soft: #667085; --line: #dfe3ea; --paper: #fff; --card: #f6f7f9; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e3e7ee; --soft: #98a2b3; --line: #333b48; --paper: #14181f; --card: #1c222b; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 62rem; background: var(--paper);
  color: var(--ink); font: 15px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { margin: 0; font-size: 1.9rem; line-height: 1.2; }
h2 { margin: 3rem 0 1rem; padding-bottom: .3rem; border-bottom: 1px solid var(--line); font-size: 1.3rem; }
h3 { margin: 2rem 0 .75rem; font-size: 1.05rem; }
p { margin: .4rem 0; }
.soft, figcaption, footer { color: var(--soft); font-size: .87rem; }
.stages { display: grid; gap: 1rem; margin-top: 1.5rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); }
.card { padding: 1rem 1.25rem; border-radius: .6rem; background: var(--card); }
.card h2 { margin: 0 0 .75rem; padding: 0; border: 0; font-size: 1.05rem; }
.facts { display: grid; gap: .75rem 1rem; margin: 0;
  grid-template-columns: repeat(auto-fill, minmax(6.5rem, 1fr)); }
.facts dt { color: var(--soft); font-size: .8rem; }
.facts dd { margin: 0; font-size: 1.1rem; font-weight: 600; font-variant-numeric: tabular-nums; }
figure { margin: 0 0 1.5rem; break-inside: avoid; }
figcaption { margin-bottom: .35rem; }
figcaption b { color: var(--ink); font-weight: 600; }
img { display: block; max-width: 100%; height: auto; border-radius: 4px; image-rendering: pixelated; }
.charts { display: grid; gap: .5rem 1.5rem; align-items: start;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr)); }
.grids { display: flex; flex-wrap: wrap; gap: 0 1.5rem; margin-top: .5rem; }
.grids figure { max-width: 100%; }
svg { display: block; width: 100%; height: auto; }
svg text { font-family: system-ui, sans-serif !important; }
table { width: 100%; border-collapse: collapse; font-size: .9rem; }
th, td { padding: .25rem .5rem .25rem 0; border-bottom: 1px solid var(--line);
  text-align: left; vertical-align: top; }
th { width: 35%; font-weight: 400; color: var(--soft); }
th[colspan] { padding-top: .8rem; font-weight: 600; color: var(--ink); }
td { font-family: ui-monospace, monospace; font-size: .85rem; }
.wide { overflow-x: auto; margin-bottom: 1.5rem; }
.wide th, .wide td { width: auto; white-space: nowrap; padding-right: 1rem; }
footer { margin-top: 3rem; }
@media (max-width: 40rem) { img { image-rendering: auto; } }
@media print {
  :root { --ink: #000; --soft: #555; --line: #ccc; --paper: #fff; --card: #f4f4f4; }
  body { max-width: none; padding: 0; font-size: 11px; }
  h2, h3 { break-after: avoid; }
  tr { break-inside: avoid; }
}
</style>
</head>
<body>
<header><h1>$title</h1><p class="soft">$subtitle</p></header>
$body
<footer>$footer</footer>
</body>
</html>
""")
