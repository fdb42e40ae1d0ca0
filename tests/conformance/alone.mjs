// What a gateway without an OpenClaw behind is held to, beside the original: who is let in and how the others are refused, and
// that a call which only OpenClaw could serve is refused first for want of a scope or role, or for a name that nobody has.

/** The parts that such a gateway goes through. */
export const PARTS_ALONE = ["handshake", "matrix"];

/** Of a hello: who the client is, and the limits. What there is to be told of agents and plugins is another matter. */
const HELLO = ["type", "protocol", "auth"];
const POLICY = ["maxPayload", "maxBufferedBytes", "tickIntervalMs"];

const only = (value, names) => Object.fromEntries(names.map((name) => [name, value?.[name]]));

function handshake(answer) {
  const payload = answer.hello?.payload;
  if (!payload) return answer;
  return { ...answer, hello: { ...answer.hello, payload: { ...only(payload, HELLO), policy: only(payload.policy, POLICY) } } };
}

const IS_RIGHT = /^(missing scope|unauthorized role|unknown method)/;

/** Maps of id → answer, cut to what can be compared, and the ids of what was left to an OpenClaw that is not there. */
export function comparable(expected, got) {
  const cut = { expected: new Map(), got: new Map(), left: [] };
  for (const [id, own] of got) {
    const theirs = expected.get(id);
    const isLeft = own.error?.code === "UNAVAILABLE" && /OpenClaw/.test(own.error.message) && !IS_RIGHT.test(theirs?.error?.message ?? "");
    if (isLeft) {
      cut.left.push(id);
      continue;
    }
    cut.expected.set(id, id.startsWith("handshake/") ? handshake(theirs) : theirs);
    cut.got.set(id, id.startsWith("handshake/") ? handshake(own) : own);
  }
  return cut;
}
