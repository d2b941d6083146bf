// What Mermaid itself makes of texts, one JSON string a line: its nodes, arrows, slices, series.
//
//     node mermaid_facts.mjs FOLDER_WITH_NODE_MODULES
import { createRequire } from "node:module";
import path from "node:path";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const [folder] = process.argv.slice(2);
const require = createRequire(path.join(folder, "package.json"));
const { JSDOM } = require("jsdom");
const { window } = new JSDOM("<!DOCTYPE html><body></body>");
const { document, DOMParser, Element, HTMLElement, Node, SVGElement } = window;
Object.assign(globalThis, { window, document, DOMParser, Element, HTMLElement, Node, SVGElement });
console.log = console.info = console.warn = () => {};
const bundle = path.join(folder, "node_modules", "mermaid", "dist", "mermaid.esm.min.mjs");
const { default: mermaid } = await import(pathToFileURL(bundle));
mermaid.initialize({ startOnLoad: false });

function facts(db) {
  if (db.getVertices) {
    return {
      nodes: [...db.getVertices().values()].map(({ id, text }) => [id, text ?? id]),
      edges: db.getEdges().map(({ start, end, text }) => [start, end, text ?? ""]),
    };
  }
  if (db.getSections) return { series: [["pie", [...db.getSections().entries()]]] };
  return { series: db.getXYChartData().plots.map(({ type, data }) => [type, data]) };
}

for await (const line of createInterface({ input: process.stdin })) {
  const { db } = await mermaid.mermaidAPI.getDiagramFromText(JSON.parse(line));
  process.stdout.write(JSON.stringify(facts(db)) + "\n");
}
