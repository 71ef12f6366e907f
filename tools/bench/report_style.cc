#include "tools/bench/report_style.h"

namespace ramjet::bench {

const char kReportStyle[] = R"css(
:root { color-scheme: light dark;
  --page: #fff; --text: #1c2024; --soft: #62686e; --rule: #d9dde1; --tint: #f4f6f8;
  --grey: #6b7075; --silver: #9a9fa4; --purple: #a8497f; --orange: #c76a00; --blue: #0068b5;
  --green: #00855f; --bad: #b3261e; --zero: #e6e9ec; }
@media screen and (prefers-color-scheme: dark) { :root {
  --page: #15181b; --text: #e3e6e9; --soft: #9aa1a8; --rule: #363c42; --tint: #1e2226;
  --grey: #b4babf; --silver: #858b91; --purple: #e28fc0; --orange: #f0a040; --blue: #5fb4f5;
  --green: #3ecfa2; --bad: #ff8a80; --zero: #262b30; } }
body { background: var(--page); color: var(--text); margin: 0 auto; padding: 1rem 1.5rem 4rem;
  max-width: 84rem; font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: .5rem 0; }
h2 { font-size: 1.3rem; margin: 3rem 0 .5rem; padding-top: 1rem;
  border-top: 1px solid var(--rule); }
h3 { font-size: 1rem; margin: 1.6rem 0 .4rem; }
p { max-width: 52rem; }
.soft, td small { color: var(--soft); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem .3rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--rule); }
th { font-weight: 600; }
thead th { color: var(--soft); vertical-align: bottom; }
.number { text-align: right; }
td.number { white-space: nowrap; }
tbody th { white-space: nowrap; }
td small { display: block; font-size: .75rem; }
.best { font-weight: 700; }
.met { color: var(--green); font-weight: 600; white-space: nowrap; }
.missed { color: var(--bad); font-weight: 600; white-space: nowrap; }
.unreliable { color: var(--orange); white-space: nowrap; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.2rem; max-width: none; }
dt { font-weight: 600; }
dd { margin: 0; }
nav a { margin-right: 1rem; }
a { color: var(--blue); }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.4rem; list-style: none; padding: 0;
  margin: .4rem 0; font-size: .9rem; }
#filter { position: sticky; top: 0; z-index: 1; background: var(--page); padding: .4rem 0;
  border-bottom: 1px solid var(--rule); }
.swatch { width: 2.4rem; height: .9em; vertical-align: -.1em; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(22rem, 1fr)); gap: 1rem; }
.maps { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: 1.2rem; }
figure { margin: 0; }
figcaption { font-size: .85rem; color: var(--soft); text-align: center; }
.maps figure { display: flex; flex-direction: column; }
.maps figcaption { text-align: left; margin-bottom: auto; padding-bottom: .3rem; }
.maps figcaption b { color: var(--text); display: block; }
svg { width: 100%; display: block; }
.swatch { display: inline; }
svg text { font-size: 12px; fill: var(--soft); }
svg text.axis { fill: var(--text); }
.grid { stroke: var(--rule); stroke-width: 1; fill: none; }
.line path { fill: none; stroke: var(--line); stroke-width: 2; stroke-dasharray: var(--dash, none);
  stroke-linejoin: round; }
.line circle { fill: var(--line); }
.line .ring { fill: none; stroke: var(--line); stroke-width: 2; }
.swatch.line path { stroke-width: 4; }
.line:hover path { stroke-width: 4; }
.k0, .k2 { --line: var(--grey); } .k1 { --line: var(--silver); --dash: 7 3; }
.k3 { --line: var(--purple); --dash: 9 3 2 3; } .k4 { --line: var(--orange); --dash: 4 3; }
.k5 { --line: var(--blue); } .k6 { --line: var(--green); }
.k7 { --line: var(--silver); --dash: 2 3; } .k8 { --line: var(--text); --dash: 1 3; }
.map { outline: 1px solid var(--rule); shape-rendering: crispEdges; }
.map path, .swatch path { stroke-width: 1.02; fill: none; }
.swatch { shape-rendering: crispEdges; }
.working-set { stroke: var(--green); } .demand { stroke: var(--orange); }
.eager { stroke: var(--blue); } .present { stroke: var(--purple); } .zero { stroke: var(--zero); }
.l1 { opacity: .85; } .l2 { opacity: .71; } .l3 { opacity: .58; } .l4 { opacity: .46; }
.l5 { opacity: .35; } .zero.l5 { opacity: 1; }
#tip { position: fixed; z-index: 2; background: var(--text); color: var(--page);
  padding: .1rem .5rem; border-radius: .2rem; font-size: .85rem; pointer-events: none; }
@page { size: A4 landscape; margin: 12mm; }
@media print { table { font-size: 8pt; }
  body { max-width: none; padding: 0; font-size: 10pt; print-color-adjust: exact; }
  #filter, nav, #tip { display: none; }
  figure, table, dl, h3 { break-inside: avoid; }
  h2, h3, p, .legend { break-after: avoid; } .legend { break-inside: avoid; }
  .wide { overflow: visible; } .pair { grid-template-columns: 1fr 1fr; }
  .maps { grid-template-columns: repeat(5, 1fr); gap: .6rem; }
  th, td { padding-right: .4rem; } }
)css";

const char kReportScript[] = R"js(
for (const box of document.querySelectorAll('#filter input')) {
  box.onchange = () => {
    for (const e of document.querySelectorAll('main .' + box.value)) e.hidden = !box.checked;
    for (const e of document.querySelectorAll('main g.' + box.value)) {
      e.style.display = box.checked ? '' : 'none';
    }
  };
}
document.getElementById('filter').hidden = false;
const tip = document.getElementById('tip');
const why = { w: 'working set', d: 'on demand', e: 'eager', p: 'present', z: 'zero' };
for (const map of document.querySelectorAll('svg.map')) {
  const cells = [];
  for (const token of map.dataset.cells.split(' ')) {
    const [cell, count] = token.split('*');
    cells.push(...Array(Number(count || 1)).fill(cell));
  }
  const columns = Number(map.dataset.columns), rows = Math.ceil(cells.length / columns);
  map.onmousemove = (event) => {
    const box = map.getBoundingClientRect();
    const row = Math.floor((event.clientY - box.top) / box.height * rows);
    const i = row * columns + Math.floor((event.clientX - box.left) / box.width * columns);
    const cell = cells[i] || '-';
    tip.hidden = !why[cell[0]];
    tip.textContent = 'at ' + (i * map.dataset.cellMib).toFixed(2) + ' MiB: ' + why[cell[0]] +
        (cell.length === 1 ? '' : ', after ' + cell.slice(1) + ' ms');
    tip.style.left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 4) + 'px';
    tip.style.top = event.clientY + 16 + 'px';
  };
  map.onmouseleave = () => { tip.hidden = true; };
}
)js";

}  // namespace ramjet::bench
