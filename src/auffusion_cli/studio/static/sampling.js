// Steps, guidance and scheduler: fields that are empty ask for the model's own.

import { element } from "./dom.js";

const SCHEDULERS = ["pndm", "ddim", "dpm++", "unipc", "euler", "ddpm", "pingpong"];

export function addSampling(container, defaults) {
  const number = (name, label, attributes) =>
    element("label", {}, label,
      element("input", { name, type: "number", placeholder: String(defaults[name]), ...attributes }));
  container.append(
    number("steps", "Steps", { min: 1, max: 999, step: 1 }),
    number("guidance_scale", "Guidance", { min: 1, max: 100, step: "any" }),
    element("label", {}, "Scheduler",
      element("select", { name: "scheduler" },
        element("option", { value: "" }, `the model's (${defaults.scheduler})`),
        ...SCHEDULERS.map((name) => element("option", { value: name }, name)))));
}

// The fields of a form as the API has them; what is empty is left out.
export function fieldsOf(form, numbers) {
  const request = {};
  for (const [name, text] of new FormData(form)) {
    if (typeof text !== "string" || text.trim() === "") continue;
    request[name] = numbers.includes(name) ? Number(text) : text;
  }
  return request;
}

export const SAMPLING_NUMBERS = ["steps", "guidance_scale"];

// Seeds have up to 63 bits, and a number of JavaScript holds 53 of them exactly.
export function seedOf(text) {
  const seed = Number(text);
  if (!Number.isSafeInteger(seed)) throw new Error("A seed above 2^53 is for the command line only");
  return seed;
}
