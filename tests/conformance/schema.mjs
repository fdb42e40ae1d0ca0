// Every frame received, checked against the published protocol schema where it has a definition for it.
// The package is a little older than the gateway, so the original itself violates some definitions; ours may violate no other.
import fs from "node:fs";
import path from "node:path";
import Ajv from "ajv";
import { repoRoot } from "../lib/tools.mjs";

// Not among the package's exports, so read as a file.
const file = path.join(repoRoot, "tests/node_modules/@openclaw/gateway-protocol/protocol.schema.json");
const schema = JSON.parse(fs.readFileSync(file, "utf8"));
const ajv = new Ajv({ strict: false, allErrors: false, discriminator: false, validateFormats: false });
ajv.addSchema(schema, "protocol");

const compiled = new Map();
function validator(name) {
  if (!schema.definitions[name]) return undefined;
  if (!compiled.has(name)) compiled.set(name, ajv.compile({ $ref: `protocol#/definitions/${name}` }));
  return compiled.get(name);
}

const pascal = (name) => name.split(/[.\-_]/).filter(Boolean).map((part) => part[0].toUpperCase() + part.slice(1)).join("");

/** Definitions whose names do not follow from the method's or the event's. */
const RESULTS = { connect: "HelloOk", "config.schema": "ConfigSchemaResponse", "openclaw.changes.list": "SystemChangesListResult" };
const EVENTS = {
  "mentions.changed": undefined, "question.requested": "QuestionRecord", "board.changed": "BoardChangedEvent", "task.suggestion": "TaskSuggestionEvent",
  "node.invoke.request": "NodeInvokeRequestEvent",
};

export const resultDefinition = (method) => [RESULTS[method], `${pascal(method)}Result`].find((name) => schema.definitions[name]);
export const eventDefinition = (event) => [EVENTS[event], `${pascal(event)}Event`].find((name) => schema.definitions[name]);

/** Adds to `seen` ({definition → {checked, violations: {error → example}}}) what one connection received. */
export function checkFrames(client, seen) {
  const note = (definition, value, where) => {
    const validate = validator(definition);
    const entry = (seen[definition] ??= { checked: 0, violations: {} });
    entry.checked++;
    if (validate(value)) return;
    const { instancePath, message, params } = validate.errors[0];
    const error = `${instancePath.replace(/\/\d+/g, "/*")} ${message}${params.additionalProperty ? ` '${params.additionalProperty}'` : ""}`.trim();
    entry.violations[error] ??= where;
  };
  for (const frame of client.frames) {
    if (frame.type === "res") {
      note("ResponseFrame", frame, frame.id);
      const definition = frame.ok ? resultDefinition(client.methods?.get(frame.id) ?? "") : undefined;
      if (definition) note(definition, frame.payload, client.methods.get(frame.id));
    } else if (frame.type === "event") {
      note("EventFrame", frame, frame.event);
      const definition = eventDefinition(frame.event);
      if (definition) note(definition, frame.payload, frame.event);
    } else {
      note("GatewayFrame", frame, "neither a response nor an event");
    }
  }
}
