"use strict";

/** What went wrong with an image or a wish; `code` is stable, `message` is for people. */
class MediaError extends Error {
  constructor(message, { code, what, have, limit, cause } = {}) {
    super(message, cause === undefined ? undefined : { cause });
    // Callers of web and Node APIs tell an abort by this name.
    this.name = code === "cancelled" ? "AbortError" : "MediaError";
    this.code = code;
    if (what != null) Object.assign(this, { what, have, limit });
  }

  static of({ code, message, what, have, limit }) {
    return new MediaError(message, { code, what, have, limit });
  }

  static cancelled(signal) {
    return new MediaError("cancelled", { code: "cancelled", cause: signal?.reason });
  }
}

module.exports = { MediaError };
