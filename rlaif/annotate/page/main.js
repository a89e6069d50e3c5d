// The annotation page: what happens when. The screen is view.js, unsaved answers outbox.js, the server server.js.

import { Outbox } from "./outbox.js";
import { Look } from "./look.js";
import { openSession, post, wellFormed } from "./server.js";
import {
  $, PLACES, screen, showEdit, showFinished, showNames, showPair, showPrinciples, showProgress, showSaving,
} from "./view.js";

const ASK_EVERY_MS = 60000; // keeps this annotator's pairs theirs, and the progress of all up to date
const ASK_WAITING_MS = 5000;
const BLIND_MS = 300; // a key pressed twice must not answer a pair that nobody has seen

let session, outbox, annotator, work;
let look = null; // the pair on the screen
const answered = new Map(); // answer id -> its pair, of this visit: to show again what is undone while the server is away

const stored = (name) => `${session.key}:${name}`;

// ------------------------------------------------------------------------------------------------ the flow

function unsent() {
  return outbox.pending().filter((event) => event.annotator === annotator);
}

// Answers that wait and were not taken back while they waited.
function unsentAnswers() {
  const undone = new Set(unsent().filter((event) => event.kind === "undo").map((event) => event.answer_id));
  return unsent().filter((event) => event.kind === "answer" && !undone.has(event.id));
}

// The id of the answer that undo takes back: the last one, sent or not.
function lastAnswer() {
  const undone = (id) => unsent().some((event) => event.kind === "undo" && event.answer_id === id);
  return unsentAnswers().at(-1)?.id ?? (undone(work.last) ? null : work.last);
}

function show(item) {
  look = new Look(item, stored(`draft:${annotator}:${item.pair_id}`));
  const here = look;
  screen("pair");
  showPair(look);
  showEdit(null);
  showPrinciples(Object.entries(item.principles), look.draft.principles, (id, place) => {
    if (place) here.draft.principles[id] = place;
    else delete here.draft.principles[id];
    here.keepDraft();
  });
  delete $("pair").dataset.ready;
  setTimeout(() => {
    if (look === here) $("pair").dataset.ready = item.pair_id;
  }, BLIND_MS);
}

// Keep what is on the screen while it can still be answered; else the next pair, else the last screen.
function next({ again = false } = {}) {
  const gone = new Set(unsentAnswers().map((event) => event.pair_id));
  const stays = !again && look && !gone.has(look.item.pair_id);
  if (!stays) {
    const item = work.items.find((one) => !gone.has(one.pair_id));
    look = null;
    if (item) show(item);
    else if (unsent().length) wait("Waiting for the server …");
    else {
      showFinished(work);
      screen("finished");
    }
  }
  refresh();
}

function refresh() {
  const waiting = unsent().filter((event) => event.kind === "answer").length;
  showSaving({ size: outbox.pending().length, failing: outbox.failing, refused: outbox.refused });
  if (!work) return;
  const undone = unsent().length - waiting;
  showProgress(work, waiting - undone);
  $("undo").disabled = !lastAnswer();
}

function wait(words) {
  $("waiting-for").textContent = words;
  screen("wait");
}

function said(words) {
  $("said").textContent = words;
}

// A reply to what was sent. Only the last one of a row counts: before it the server does not know the rest.
function heard(reply, event) {
  if (reply.annotator !== annotator || unsent().length) return;
  work = reply;
  next({ again: event.kind === "undo" });
}

function answer(choice, edited = null) {
  if (!look || $("pair").dataset.ready !== look.item.pair_id) return;
  look.keepDraft();
  const given = look.answer(choice, edited, wellFormed);
  const words = { first: "Response 1", second: "Response 2", tie: "a tie", skip: "skipped" }[choice];
  said(`Last answer: ${words}${edited === null ? "" : ", edited"}`);
  document.activeElement?.blur();
  answered.set(given.id, look.item);
  outbox.add({ kind: "answer", annotator, ...given });
  next();
}

function takeBack(answer_id) {
  outbox.add({ kind: "undo", id: crypto.randomUUID(), annotator, answer_id });
}

function undo() {
  const last = work && lastAnswer();
  if (!last) return;
  said("Last answer undone");
  takeBack(last);
  if (answered.has(last)) show(answered.get(last));
  refresh();
}

async function ask() {
  if (!annotator || !visible() || unsent().length) return;
  try {
    const reply = await post("api/work", { annotator });
    if (reply.annotator !== annotator || unsent().length) return;
    work = reply;
    next();
  } catch {
    // The next time will do: nothing waits to be saved.
  }
}

// ------------------------------------------------------------------------------------------------ edits

function setEdit(edit) {
  look.edit = edit;
  showEdit(edit, PLACES.includes(edit) ? (look.draft.edited[edit] ?? look.textAt(edit)) : null);
}

function saveEdit() {
  const { value } = $(look.edit).querySelector("textarea");
  if (!value.trim()) {
    said("An edit must leave some text");
    return;
  }
  const original = look.textAt(look.edit).replace(/\r\n?/g, "\n"); // as a text area has it
  answer(look.edit, value === original ? null : value);
}

function choose(choice) {
  if (look.edit !== "which") answer(choice);
  else setEdit(PLACES.includes(choice) ? choice : null);
}

// ------------------------------------------------------------------------------------------------ names

function askName() {
  annotator = null;
  look = null;
  $("who").hidden = true;
  $("progress").hidden = true;
  showNames(session.annotators, enter);
  screen("name");
  $("name-field").focus();
}

async function enter(name) {
  annotator = wellFormed(name).normalize("NFC").split(/\s+/).filter(Boolean).join(" ");
  if (!annotator) return askName();
  localStorage.setItem(stored("annotator"), annotator);
  if (!session.annotators.includes(annotator)) session.annotators.push(annotator);
  $("who").textContent = annotator;
  $("who").setAttribute("aria-label", `Annotator: ${annotator}. Change`);
  $("who").hidden = false;
  said("");
  wait("Loading …");
  work = await insist(() => post("api/work", { annotator }));
  look = null;
  next();
}

async function insist(request) {
  for (;;) {
    try {
      return await request();
    } catch (error) {
      if (error.status >= 400 && error.status < 500) {
        wait(error.message);
        throw error;
      }
      const busy = error.status === 503;
      wait(`${busy ? "The answers cannot be read right now" : "The server cannot be reached"}. Trying again …`);
      await new Promise((go) => { setTimeout(go, 1000); });
    }
  }
}

// ------------------------------------------------------------------------------------------------ keys

const KEYS = {
  1: () => choose("first"),
  2: () => choose("second"),
  0: () => choose("tie"),
  s: () => choose("skip"),
  e: () => setEdit("which"),
  r: () => $("reason").focus(),
  u: undo,
  Backspace: undo,
  Escape: () => setEdit(null),
};

function inText(target) {
  return target instanceof HTMLTextAreaElement || (target instanceof HTMLInputElement && target.type !== "radio");
}

function onKey(event) {
  const editing = PLACES.includes(look?.edit);
  const command = event.ctrlKey || event.metaKey;
  if ($("help").open || event.isComposing || event.altKey || event.repeat) return;
  if (event.target === $("reason") && (event.key === "Escape" || (event.key === "Enter" && !event.shiftKey))) {
    $("reason").blur();
  } else if (editing && event.key === "Escape") setEdit(null);
  else if (editing && event.key === "Enter" && command) saveEdit();
  else if (inText(event.target)) return;
  else if (command && event.key.toLowerCase() === "z") undo();
  else if (command) return;
  else if (event.key === "?") $("help").showModal();
  else if (document.body.dataset.screen === "finished" && ["u", "Backspace"].includes(event.key)) undo();
  else if (document.body.dataset.screen !== "pair" || editing) return;
  else if (Object.hasOwn(KEYS, event.key)) KEYS[event.key]();
  else return;
  event.preventDefault();
}

function listen() {
  document.addEventListener("keydown", onKey);
  const clicks = {
    "choose-first": () => choose("first"),
    "choose-second": () => choose("second"),
    "choose-tie": () => choose("tie"),
    skip: () => choose("skip"),
    edit: () => setEdit("which"),
    "edit-first": () => setEdit("first"),
    "edit-second": () => setEdit("second"),
    "edit-save": saveEdit,
    "edit-cancel": () => setEdit(null),
    undo,
    "finished-undo": undo,
    "finished-skipped": () => work.skipped.forEach(takeBack),
    who: askName,
    "help-open": () => $("help").showModal(),
  };
  for (const [id, act] of Object.entries(clicks)) $(id).addEventListener("click", act);
  $("name-form").addEventListener("submit", (event) => {
    event.preventDefault();
    enter($("name-field").value);
  });
  $("reason").addEventListener("input", () => {
    look.draft.reason = $("reason").value;
    look.keepDraft();
  });
  for (const id of PLACES) {
    const area = $(id).querySelector("textarea");
    area.addEventListener("input", () => {
      look.draft.edited[id] = area.value;
      look.keepDraft();
    });
  }
  document.addEventListener("visibilitychange", () => {
    look?.keepDraft();
    ask();
  });
  window.addEventListener("pagehide", () => look?.keepDraft());
  setInterval(ask, ASK_EVERY_MS);
  setInterval(() => document.body.dataset.screen === "finished" && work.waiting && ask(), ASK_WAITING_MS);
}

async function start() {
  session = await insist(openSession);
  $("run").textContent = session.title;
  const paths = { answer: "api/answers", undo: "api/undo" };
  const send = ({ kind, ...body }) => {
    if (kind === "undo") delete body.id;
    return post(paths[kind], body);
  };
  outbox = new Outbox(session.key, send, heard, refresh);
  listen();
  outbox.flush();
  const name = localStorage.getItem(stored("annotator"));
  if (name) await enter(name);
  else askName();
}

start();
