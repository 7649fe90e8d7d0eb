"""How the status page looks: plain, wide enough for a screen on the wall, and dark where the reader's desktop is.

The rule it keeps: no colour carries a meaning that no word does.
"""

from typing import Final

STYLE: Final = """
:root{color-scheme:light dark;--ink:#1b2530;--quiet:#5c6b7a;--line:#dbe2e9;--paper:#f4f6f8;--card:#fff;
--good:#0a7d4f;--fair:#9a6200;--bad:#c22638;--accent:#1f6fb2}
@media(prefers-color-scheme:dark){:root{--ink:#e6ebf0;--quiet:#93a1b0;--line:#2c3742;--paper:#12181e;--card:#1a222a;
--good:#43c08b;--fair:#e0a740;--bad:#ff7182;--accent:#64aee8}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.45 system-ui,"DejaVu Sans",sans-serif}
main{max-width:1500px;margin:0 auto;padding:20px 24px}
header{display:flex;flex-wrap:wrap;align-items:center;gap:6px 16px;margin-bottom:16px}
h1{font-size:24px;margin:0}h1 span{font-weight:400;color:var(--quiet)}
h2{font-size:13px;font-weight:600;margin:0 0 8px;color:var(--quiet)}
p{margin:0}.quiet{color:var(--quiet);font-size:13px}
.pill{padding:3px 14px;border-radius:99px;font-weight:600;border:1.5px solid currentColor}
.good{color:var(--good)}.fair{color:var(--fair)}.bad{color:var(--bad)}
.reason{border-left:4px solid var(--bad);padding:8px 14px;background:var(--card);margin-bottom:16px;font-weight:600}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(200px,1fr));gap:14px;margin-bottom:14px}
.tile,section:not(.tiles){background:var(--card);border:1px solid var(--line);border-radius:8px;padding:14px 16px}
.tile .number{font-size:28px;font-weight:600;line-height:1.2;font-variant-numeric:tabular-nums}
.tile svg{display:block;width:100%;height:36px;margin-top:6px}
polyline{fill:none;stroke:var(--accent);stroke-width:2;vector-effect:non-scaling-stroke}
.columns{display:grid;grid-template-columns:minmax(0,3fr) minmax(0,2fr);gap:14px;align-items:start}
.columns>div{display:grid;gap:14px;min-width:0}
@media(max-width:1000px){.columns{grid-template-columns:minmax(0,1fr)}}
section:not(.tiles){overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:14px}
th{text-align:left;font-weight:500;color:var(--quiet);font-size:12.5px}
th,td{padding:5px 14px 5px 0;vertical-align:top;border-bottom:1px solid var(--line)}
tr:last-child>*{border-bottom:0}th:last-child,td:last-child{padding-right:0}
td.number,th.number{text-align:right;font-variant-numeric:tabular-nums}
.facts th{width:150px;padding-top:7px}td b{font-weight:600}
code{font:13px/1.4 ui-monospace,"DejaVu Sans Mono",monospace;overflow-wrap:anywhere}
time{white-space:nowrap}ul{margin:4px 0 0;padding-left:18px}
.bar{display:block;width:100%;height:8px;margin:6px 0 2px}.bar rect{fill:var(--accent)}.bar.bad rect{fill:var(--bad)}
.bar rect.all,.bar.bad rect.all{fill:var(--line)}
.foot{margin-top:14px;color:var(--quiet);font-size:13px}a{color:var(--accent)}
"""
