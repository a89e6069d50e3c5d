// Talking to the server that this page came from.

let csrf = null;

async function ask(path, options) {
  const reply = await fetch(path, { credentials: "same-origin", redirect: "error", ...options });
  if (!reply.ok) {
    const error = new Error(`${reply.status}: ${(await reply.text()).slice(0, 300)}`);
    throw Object.assign(error, { status: reply.status });
  }
  return reply.json();
}

export async function openSession() {
  const session = await ask("api/session");
  csrf = session.csrf;
  return session;
}

export function post(path, body) {
  const headers = { "Content-Type": "application/json", [csrf.header]: csrf.token };
  return ask(path, { method: "POST", headers, body: JSON.stringify(body) });
}

// Half of a surrogate pair, which a cut-off emoji leaves behind, is no text that a file could hold.
export function wellFormed(text) {
  return text.toWellFormed ? text.toWellFormed() : text.replace(/\p{Surrogate}/gu, "\ufffd");
}
