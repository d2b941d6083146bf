// Mermaid's own parser over lines of JSON: {"id": 1, "text": "..."} in, {"id": 1, "valid": true} out.
//
//     node parser.mjs FOLDER PARENT_PID
//
// FOLDER holds node_modules. A first line {"ready": true, "mermaid": "..."} says that it is there.
// It ends with its input or with its parent, in the middle of an endless parse too.
import { createRequire } from "node:module";
import path from "node:path";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";
import { Worker } from "node:worker_threads";

const [folder, parent] = process.argv.slice(2);
const answer = (message) => process.stdout.write(JSON.stringify(message) + "\n");

// A thread of its own: this one may be caught in a parse when the parent is killed.
const watchdog = `
  setInterval(() => process.ppid === ${Number(parent)} || process.kill(process.pid, "SIGKILL"), 500);
`;
new Worker(watchdog, { eval: true }).unref();

// Mermaid looks for a browser when it is imported, so the globals come first.
const require = createRequire(path.join(folder, "package.json"));
const { JSDOM } = require("jsdom");
const { window } = new JSDOM("<!DOCTYPE html><body></body>");
for (const name of ["document", "DOMParser", "Element", "HTMLElement", "Node", "SVGElement"]) {
  globalThis[name] = window[name];
}
globalThis.window = window;
// What a diagram's code logs must not come between the answers.
for (const name of ["log", "info", "debug", "warn", "error"]) console[name] = () => {};

const bundle = path.join(folder, "node_modules", "mermaid", "dist", "mermaid.esm.min.mjs");
const { default: mermaid } = await import(pathToFileURL(bundle));
mermaid.initialize({ startOnLoad: false });
answer({ ready: true, mermaid: require("mermaid/package.json").version });

for await (const line of createInterface({ input: process.stdin, crlfDelay: Infinity })) {
  const { id, text } = JSON.parse(line);
  try {
    await mermaid.parse(text);
    answer({ id, valid: true });
  } catch (error) {
    answer({ id, valid: false, reason: String(error?.message ?? error).slice(0, 500) });
  }
}
process.exit(0);
