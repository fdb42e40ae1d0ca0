// This browser as a device that the gateway knows: an Ed25519 key that no script can read out, and the token that the
// gateway gave it.
const NAME = "openclaw-chat";
const TOKEN = "openclaw-chat-device";

const wait = (request) => new Promise((resolve, reject) => {
  request.onsuccess = () => resolve(request.result);
  request.onerror = () => reject(request.error);
});

function open() {
  const request = indexedDB.open(NAME, 1);
  request.onupgradeneeded = () => request.result.createObjectStore("keys");
  return wait(request);
}

const base64 = (bytes) => btoa(String.fromCharCode(...bytes)).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");

async function keys() {
  const fresh = await crypto.subtle.generateKey("Ed25519", false, ["sign", "verify"]);
  try {
    const store = (await open()).transaction("keys", "readwrite").objectStore("keys");
    // Another tab may have been first.
    const known = await wait(store.get("device"));
    if (known) return known;
    await wait(store.put(fresh, "device"));
  } catch {
    // A browser that keeps nothing: another device the next time.
  }
  return fresh;
}

let made;
async function device() {
  made ??= (async () => {
    const { privateKey, publicKey } = await keys();
    const raw = new Uint8Array(await crypto.subtle.exportKey("raw", publicKey));
    const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", raw));
    return { id: [...hash].map((byte) => byte.toString(16).padStart(2, "0")).join(""), publicKey: base64(raw), privateKey };
  })().catch((error) => {
    made = undefined;
    throw error;
  });
  return made;
}

/** Whether this page may have keys at all: a browser gives them to secure pages alone. */
export const mayHaveKeys = () => Boolean(globalThis.crypto?.subtle && globalThis.indexedDB);

/** Whether this browser knows the kind of key that a device has. */
export const canSign = () => device().then(() => true, () => false);

/** `device` of `connect`, over the gateway's challenge. Source: packages/gateway-client/src/device-auth.ts at 2026.9.6. */
export async function prove({ challenge, client, role, scopes, token }) {
  const { id, publicKey, privateKey } = await device();
  const { nonce } = challenge;
  // Its own clock: this one may be wrong.
  const signedAt = Math.round(challenge.ts ?? Date.now());
  const words = ["v3", id, client.id, client.mode, role, scopes.join(","), signedAt, token, nonce, client.platform, ""].join("|");
  const signature = base64(new Uint8Array(await crypto.subtle.sign("Ed25519", privateKey, new TextEncoder().encode(words))));
  return { id, publicKey, signature, signedAt, nonce };
}

/** The token that the gateway gave this device; it outlives the tab. */
export const deviceToken = {
  get: () => localStorage.getItem(TOKEN),
  set: (value) => localStorage.setItem(TOKEN, value),
  forget: () => localStorage.removeItem(TOKEN),
};
