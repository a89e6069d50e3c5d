// What is on the screen. Texts of models and people only ever become text nodes: nothing in them is markup.

export const $ = (id) => document.getElementById(id);
const ROLES = { system: "Instructions", user: "Person", assistant: "Assistant" };
export const PLACES = ["first", "second"];
const SCREENS = ["wait", "name", "pair", "finished"];

export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

export function screen(name) {
  document.body.dataset.screen = name;
  for (const other of SCREENS) $(other).hidden = other !== name;
}

export function showPair(look) {
  const { item } = look;
  const turns = item.prompt.map((message, index) => {
    const asked = index === item.prompt.length - 1;
    const kind = asked ? "asked" : message.role === "system" ? "system" : "earlier";
    const text = element("p", { dir: "auto" }, message.content);
    return element("div", { class: `turn ${kind} ${message.role}` }, element("h3", {}, ROLES[message.role]), text);
  });
  $("conversation").replaceChildren(...turns);
  for (const place of PLACES) {
    const response = look.textAt(place);
    const text = $(place).querySelector(".text");
    text.textContent = response.trim() ? response : "(an empty response)";
    text.classList.toggle("empty", !response.trim());
    text.scrollTop = 0;
  }
  $("reason").value = look.draft.reason;
  window.scrollTo(0, 0);
  const last = turns.at(-1);
  $("conversation").scrollTop = turns.length > 1 ? last.offsetTop : 0;
}

// The mode: null, "which" (is to be edited), or the place whose response is edited, beginning with this text.
export function showEdit(edit, text) {
  const place = PLACES.includes(edit) ? edit : null;
  for (const id of PLACES) {
    $(id).querySelector("textarea").hidden = id !== place;
    $(id).querySelector(".text").hidden = id === place;
    $(id).classList.toggle("edited", id === place);
    $(id).classList.toggle("aside", place !== null && id !== place);
    $(id).classList.toggle("wanted", edit === "which");
    $(`edit-${id}`).hidden = Boolean(edit);
  }
  $("editing").hidden = !place;
  $("choices").hidden = Boolean(place);
  const which = edit === "which";
  $("choices").setAttribute("aria-label", which ? "Which one is better and to be edited?" : "Your answer");
  for (const id of PLACES) $(`choose-${id}`).querySelector("span").textContent = which ? "is better: edit it" : "is better";
  $("choose-tie").querySelector("span").textContent = which ? "Cancel" : "Tie";
  $("choose-tie").querySelector("kbd").textContent = which ? "Esc" : "0";
  if (!place) return;
  $("editing-says").textContent = `Response ${place === "first" ? 1 : 2} is better. Make it better still.`;
  const area = $(place).querySelector("textarea");
  area.value = text;
  area.focus();
  area.setSelectionRange(0, 0);
  area.scrollTop = 0;
}

// One row for each principle, [id, words]; `marked(id, "first" | "second" | "tie" | null)` hears of every change.
export function showPrinciples(principles, marks, marked) {
  $("principles").hidden = !principles.length;
  const rows = principles.map(([id, text], number) => {
    const choices = [["first", "1"], ["tie", "Tie"], ["second", "2"], ["", "–"]].map(([value, label]) => {
      const input = element("input", { type: "radio", name: `principle-${number}`, value });
      input.checked = (marks[id] ?? "") === value;
      input.addEventListener("change", () => marked(id, value || null));
      if (!value) input.setAttribute("aria-label", "No answer");
      return element("label", value ? {} : { class: "none" }, input, label);
    });
    const legend = element("legend", { dir: "auto" }, text);
    return element("fieldset", { class: "principle" }, legend, element("div", { class: "marks" }, ...choices));
  });
  $("principle-rows").replaceChildren(...rows);
}

export function showProgress(work, unsent) {
  const done = work.done + work.skipped.length + unsent;
  const left = Math.max(work.left - unsent, 0);
  $("progress").hidden = false;
  $("bar").max = Math.max(done + left, 1);
  $("bar").value = done;
  $("done").textContent = `${done} of ${done + left}`;
  const all = element("span", { class: "all" }, ` · everyone: ${work.all_done} of ${work.all_total}`);
  $("everybody").replaceChildren(`· ${left} left`, all);
}

export function showSaving({ size, failing, refused }) {
  const answers = size === 1 ? "1 answer is" : `${size} answers are`;
  $("saving").dataset.tone = failing || refused ? "trying" : "saved";
  $("saving").title = refused ?? "";
  if (failing) $("saving").textContent = `${answers} not saved yet, retrying …`;
  else if (refused) $("saving").textContent = "An answer was refused";
  else $("saving").textContent = size ? "Saving …" : "All saved";
}

export function showFinished(work) {
  const waiting = work.waiting > 0;
  $("finished-title").textContent = waiting ? "Nothing for you right now" : `Thank you, ${work.annotator}`;
  const answers = work.done === 1 ? "1 answer of yours is" : `${work.done} answers of yours are`;
  const pairs = work.waiting === 1 ? "1 pair is" : `${work.waiting} pairs are`;
  $("finished-says").textContent = waiting
    ? `${pairs} on other people's screens. Should one come free, it appears here by itself.`
    : `You have been through everything: ${answers} saved. You may close this page.`;
  $("finished-undo").hidden = !work.last;
  $("finished-skipped").hidden = !work.skipped.length;
  $("finished-skipped").textContent =
    work.skipped.length === 1 ? "Look at the skipped one again" : `Look at the ${work.skipped.length} skipped ones again`;
}

export function showNames(names, choose) {
  $("known").hidden = !names.length;
  $("known-names").replaceChildren(...names.map((name) => {
    const button = element("button", { type: "button" }, name);
    button.addEventListener("click", () => choose(name));
    return element("li", {}, button);
  }));
}
