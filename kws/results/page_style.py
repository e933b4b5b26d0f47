"""The report page's style sheet, script, and content security policy."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from typing import Any

from kws.errors import UsageError

SCRIPT = """
const figures = JSON.parse(document.getElementById("figures").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");
function draw() {
  const style = getComputedStyle(document.documentElement), colour = name => style.getPropertyValue(name).trim();
  const [ink, line, card, mark] = ["--ink", "--line", "--card", "--mark"].map(colour);
  figures.forEach((figure, place) => {
    const layout = structuredClone(figure.layout), data = structuredClone(figure.data);
    Object.assign(layout, {paper_bgcolor: card, plot_bgcolor: card, font: {color: ink, size: 12},
      hoverlabel: {bgcolor: card, bordercolor: line, font: {color: ink}}});
    for (const axis of [layout.xaxis, layout.yaxis]) Object.assign(axis, {gridcolor: line, zerolinecolor: line});
    for (const shape of layout.shapes || []) shape.line.color = ink;
    for (const trace of data) if (trace.type === "heatmap") {
      trace.colorscale = [[0, card], [1, mark]];
      layout.xaxis.showgrid = layout.yaxis.showgrid = false;
    }
    Plotly.react("plot-" + place, data, layout, {displayModeBar: false, responsive: true});
  });
}
dark.addEventListener("change", draw);
draw();
"""

STYLE = """
:root { --page: #f5f6f8; --card: #ffffff; --ink: #1d2329; --soft: #5c6670; --line: #dfe3e8; --mark: #0b5c94; }
@media (prefers-color-scheme: dark) {
  :root { --page: #14171b; --card: #1e2329; --ink: #e4e8ec; --soft: #9ba6b1; --line: #343b44; --mark: #74b9ec; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1120px; padding: 1.25rem 1rem 3rem; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { margin: 0 0 1rem; font-size: 1.7rem; overflow-wrap: anywhere; }
h2 { margin: 0 0 .75rem; font-size: 1.2rem; }
h3 { margin: 1.5rem 0 .5rem; font-size: 1rem; }
p { margin: 0 0 .75rem; color: var(--soft); overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); gap: .75rem; margin: 0; }
@media (min-width: 900px) { dl { grid-template-columns: repeat(4, 1fr); } }
dl > div, section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
dl > div { padding: .7rem .9rem; }
dt { color: var(--soft); font-size: .82rem; }
dd { margin: 0; font-size: 1.1rem; font-weight: 600; overflow-wrap: anywhere; }
dl > div:first-child dd { color: var(--mark); }
small { display: block; color: var(--soft); font-size: .75rem; font-weight: 400; }
section { margin-top: 1rem; padding: 1.1rem 1.2rem; }
.scroll { overflow-x: auto; }
.beside { display: flex; flex-wrap: wrap; gap: 0 3rem; }
.beside > div { min-width: 0; }
.card { background: #ffffff; border: 1px solid var(--line); border-radius: 8px; padding: .25rem; }
img { display: block; max-width: 100%; height: auto; margin: 0 auto; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
th { color: var(--soft); font-weight: 600; border-bottom: 2px solid var(--line); }
th, td { padding: .3rem .9rem .3rem 0; white-space: nowrap; }
td { border-bottom: 1px solid var(--line); }
.l { text-align: left; }
.r { text-align: right; }
pre { margin: 0; font: .85rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
footer { margin-top: 1rem; color: var(--soft); font-size: .82rem; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1rem; }
.plots > div { min-width: 0; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(14rem, 1fr)); gap: .8rem; }
figure { margin: 0; padding: .6rem; border: 1px solid var(--line); border-radius: 8px; min-width: 0; }
figcaption { margin: .4rem 0; overflow-wrap: anywhere; }
.sound { width: 100%; height: 6rem; image-rendering: pixelated; border-radius: 4px; }
audio { width: 100%; height: 2.2rem; }
"""


def security_policy(scripts: Sequence[str]) -> str:
    """The Content-Security-Policy: nothing may be fetched, and only these scripts may run."""
    sums = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in sums) or "'none'"
    return (
        "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; "
        f"script-src {allowed}; base-uri 'none'; form-action 'none'"
    )


def plot_scripts(plots: Sequence[dict[str, Any]]) -> tuple[str, list[str]]:
    """The HTML at the end of the page that draws the plots, and the scripts in it; empty where there is no plot."""
    if not plots:
        return "", []
    try:
        from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]
    except ImportError as error:
        raise UsageError("kws report: its plots need the package plotly: pip install plotly") from error
    library = get_plotlyjs().replace("</script", "<\\/script")
    # JSON allows "<" as an escape sequence; so no tag inside can end the script element.
    figures = json.dumps(list(plots), allow_nan=False).replace("<", "\\u003c")
    found = [library, SCRIPT]
    return "".join(
        [f'<script type="application/json" id="figures">{figures}</script>']
        + [f"<script>{script}</script>" for script in found]
    ), found
