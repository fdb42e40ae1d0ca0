// What is set in both files and by variables, and where; fetched when the person asks.
import { call } from "./api.mjs";
import { el, find, rows, say } from "./dom.mjs";

const HIDDEN = "__OPENCLAW_REDACTED__";
let values = [];

function shown(value) {
  if (value === null) return el("span", { class: "dim" }, "unset");
  if (value === HIDDEN) return el("span", { class: "dim" }, "hidden");
  return el("span", { class: "mono" }, (typeof value === "string" ? value : JSON.stringify(value)).replaceAll(HIDDEN, "hidden"));
}

function show() {
  const wanted = find("config-filter").value.trim().toLowerCase();
  const isShown = (row) => (row.origin !== "default" || !find("config-set").checked) && `${row.key} ${row.origin}`.toLowerCase().includes(wanted);
  const found = values.filter(isShown);
  rows(find("values"), ["", "", "From"], found, (row) => row.key, (row) => [el("span", { class: "mono" }, row.key), shown(row.value), row.origin]);
}

async function load() {
  const button = find("config-load");
  button.disabled = true;
  try {
    const { config, own } = await call("api/console/config");
    values = [...config.values, ...own.values];
    say("config-words", `What ${config.file} and ${own.file} say now, what variables set, and defaults of the second. Secrets are hidden; options given to run are not shown.`);
  } catch (error) {
    values = [];
    say("config-words", `The files can't be used as they are now, so what was set before stays in force: ${error.message}`);
  }
  button.disabled = false;
  say(button, "Read again");
  for (const one of document.querySelectorAll("#config [hidden]:not(table)")) one.hidden = false;
  show();
}

find("config-load").onclick = load;
find("config-filter").addEventListener("input", show);
find("config-set").addEventListener("change", show);

export function forget() {
  values = [];
  show();
}
