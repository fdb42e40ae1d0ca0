// Where a client sees something else through ours than directly, and why that is right. Each entry is asserted to
// differ exactly as written, so that one that stops differing is noticed.
//
// { suite, step, at: [keys into the observation], direct: value, ours: value, why }
export const KNOWN = [
  {
    suite: "sdk", step: "curl: GET /readyz", at: ["body", "eventLoop"], direct: "<object>", ours: undefined,
    why: "The lag of Node's event loop: this process has none, and that of a process behind would not be its own.",
  },
];
