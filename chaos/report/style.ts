// The style sheet of the report's page: light and dark, screen and paper. It loads nothing, and every colour has a name.

export const styleSheet = `
:root {
  color-scheme: light dark;
  --page: #f5f6f8; --card: #ffffff; --ink: #18202c; --soft: #5d6778; --line: #e3e7ed; --faint: #eef1f5;
  --confirms: #2563eb; --deliveries: #0d9488; --backlog: #8b5cf6; --fault: #f3b23c; --fault-ink: #4a3200; --stall: #d92d20;
  --pass: #12753c; --pass-soft: #e3f5ea; --violation: #b42318; --violation-soft: #fdeceb;
  --inconclusive: #a15c07; --inconclusive-soft: #fdf3dc; --skipped: #5d6778; --skipped-soft: #eceff3;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #0e1217; --card: #161b22; --ink: #e6eaf0; --soft: #98a3b3; --line: #2a323d; --faint: #1f262f;
    --confirms: #6ea8fe; --deliveries: #2dd4bf; --backlog: #a78bfa; --fault: #c98a1b; --fault-ink: #fff4dc; --stall: #f87171;
    --pass: #5fd38d; --pass-soft: #12301f; --violation: #ff8d84; --violation-soft: #3a1715;
    --inconclusive: #f3c265; --inconclusive-soft: #33270d; --skipped: #98a3b3; --skipped-soft: #222932;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif;
}
main { max-width: 1120px; margin: 0 auto; padding: 32px 24px 64px; }
h1 { font-size: 30px; line-height: 1.2; margin: 4px 0 8px; letter-spacing: -0.01em; }
h2 { font-size: 19px; margin: 0; letter-spacing: -0.005em; }
h3 { font-size: 13px; margin: 22px 0 6px; color: var(--soft); font-weight: 600; }
p { margin: 0 0 8px; }
a { color: inherit; text-decoration: none; }
a:hover, a:focus-visible { text-decoration: underline; }
code { font: 13px/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
.kicker { color: var(--soft); font-size: 13px; font-weight: 600; letter-spacing: 0.06em; text-transform: uppercase; }
.soft { color: var(--soft); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 22px 24px; margin-top: 20px; }
.verdict { border-left: 6px solid var(--tone); }
.pass { --tone: var(--pass); --tone-soft: var(--pass-soft); }
.violation { --tone: var(--violation); --tone-soft: var(--violation-soft); }
.inconclusive { --tone: var(--inconclusive); --tone-soft: var(--inconclusive-soft); }
.skipped { --tone: var(--skipped); --tone-soft: var(--skipped-soft); }
.verdict h1 { color: var(--tone); }
.chip {
  display: inline-block; padding: 1px 10px; border-radius: 999px; background: var(--tone-soft); color: var(--tone);
  font-size: 13px; font-weight: 600; white-space: nowrap;
}
.reason { background: var(--tone-soft); color: var(--tone); border-radius: 8px; padding: 8px 12px; margin-top: 10px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(128px, 1fr)); gap: 1px; margin: 20px 0 0; background: var(--card);
  border: 1px solid var(--line); border-radius: 10px; overflow: hidden; }
.tiles div { box-shadow: 0 0 0 1px var(--line); padding: 12px 14px; display: flex; flex-direction: column-reverse; }
.tiles dt { color: var(--soft); font-size: 13px; }
.tiles dd { margin: 0; font-size: 22px; font-weight: 650; font-variant-numeric: tabular-nums; letter-spacing: -0.01em; }
.tiles .bad dd { color: var(--violation); }
.wide { overflow-x: auto; }
.wide + p { margin: 14px 0 0; }
.wide svg { min-width: 680px; }
.overview td:first-child { min-width: 190px; }
.overview td:nth-child(7) { white-space: nowrap; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: 14px; }
th { text-align: left; font-weight: 600; color: var(--soft); font-size: 13px; padding: 6px 14px 6px 0; white-space: nowrap; }
td { border-top: 1px solid var(--line); padding: 7px 14px 7px 0; vertical-align: top; }
th:last-child, td:last-child { padding-right: 0; }
.number { text-align: right; white-space: nowrap; }
td b { font-weight: 600; }
td small { display: block; color: var(--soft); font-size: 13px; line-height: 1.4; }
.meter { display: block; height: 4px; border-radius: 2px; background: var(--faint); margin-top: 5px; min-width: 90px; overflow: hidden; }
.meter i { display: block; height: 100%; background: var(--pass); border-radius: 2px; }
.missed { color: var(--inconclusive); }
.missed .meter i { background: var(--inconclusive); }
.head { display: flex; gap: 12px; align-items: baseline; flex-wrap: wrap; }
.head .soft { margin-left: auto; font-size: 13px; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(330px, 1fr)); gap: 0 40px; }
details { margin-top: 18px; }
summary { cursor: pointer; color: var(--soft); font-size: 13px; font-weight: 600; }
.violations { margin: 0; padding-left: 18px; }
.violations li { margin: 4px 0; }
dl.facts { display: grid; grid-template-columns: max-content 1fr; gap: 4px 20px; margin: 0; }
dl.facts dt { color: var(--soft); }
dl.facts dd { margin: 0; overflow-wrap: anywhere; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 14px 0 2px; color: var(--soft); font-size: 13px; }
.legend span::before { content: ""; display: inline-block; width: 12px; height: 10px; border-radius: 2px; margin-right: 6px; background: var(--key); }
.timeline { display: block; width: 100%; height: auto; }
.timeline text { font: 11px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; fill: var(--soft);
  font-variant-numeric: tabular-nums; }
.timeline .title { font-weight: 600; }
.timeline .grid { stroke: var(--faint); }
.timeline .axis { stroke: var(--line); }
.timeline .line { fill: none; stroke: var(--key); stroke-width: 1.5; stroke-linejoin: round; }
.timeline .area { fill: var(--key); opacity: 0.14; }
.confirms { --key: var(--confirms); }
.deliveries { --key: var(--deliveries); }
.backlog { --key: var(--backlog); }
.faults { --key: var(--fault); }
.stalls { --key: var(--stall); }
.timeline .fault { fill: var(--fault); }
.timeline .shade { fill: var(--fault); opacity: 0.13; }
.timeline g:hover .shade { opacity: 0.3; }
.timeline .fault-label { fill: var(--ink); }
.timeline .fault-label.inside { fill: var(--fault-ink); }
.timeline .stall { fill: var(--stall); }
.timeline .stall-label { fill: var(--stall); font-weight: 600; paint-order: stroke; stroke: var(--card); stroke-width: 3px; }
.ledger { margin: 16px 0 0; font-size: 13px; }
.empty { color: var(--soft); margin-top: 12px; }
@media print {
  body { background: none; }
  main { max-width: none; padding: 0; }
  .card { break-inside: avoid; border-color: #ccc; }
}
`;
