// Elements and messages. Texts are set as text, never as HTML: they come from anyone.

export const find = (selector, within = document) => within.querySelector(selector);

// element("button", { class: "main", onclick: f, "aria-label": "Play" }, "text", child)
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

export const button = (text, onclick, attributes = {}) =>
  element("button", { type: "button", onclick, ...attributes }, text);

const NOTICE_MS = 8000;
let noticeTimer;

// A line at the bottom of the page, perhaps with one thing to do about it.
export function notify(text, action = null) {
  const notice = find("#notice");
  notice.replaceChildren(element("span", {}, text));
  if (action) {
    notice.append(button(action.text, () => { notice.replaceChildren(); action.run(); }));
  }
  clearTimeout(noticeTimer);
  noticeTimer = setTimeout(() => notice.replaceChildren(), NOTICE_MS);
}

export const report = (error) => notify(error.message);

// `task` for an event handler: what it throws is shown.
export const guarded = (task) => async (event) => {
  try {
    await task(event);
  } catch (error) {
    report(error);
  }
};

export async function copy(text, what) {
  await navigator.clipboard.writeText(text);
  notify(`${what} is copied`);
}

export const seconds = (value) => `${Number(value.toFixed(2))} s`;
