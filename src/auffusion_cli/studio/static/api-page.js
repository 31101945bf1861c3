// The page of the API: /openapi.json, to read.

import { element, find } from "./dom.js";

const described = await (await fetch("/openapi.json")).json();
find("#about").textContent = described.info.description;

const kind = (schema) =>
  schema.enum?.join(" | ") ?? schema.anyOf?.map(kind).join(" or ") ??
  (schema.type === "array" ? `list of ${kind(schema.items)}` : String(schema.type));

const lookUp = (content) =>
  content?.["application/json"]?.schema?.$ref && described.components.schemas[content["application/json"].schema.$ref.split("/").at(-1)];

function fields(schema) {
  return element("ul", {}, ...Object.entries(schema.properties).map(([name, one]) =>
    element("li", {}, element("code", {}, name),
      ` ${kind(one)}${schema.required?.includes(name) ? ", needed" : ""}`,
      one.default === undefined || one.default === null ? null : `, by default ${JSON.stringify(one.default)}`,
      one.description ? element("span", { class: "soft" }, ` ${one.description}`) : null)));
}

for (const [path, methods] of Object.entries(described.paths)) {
  for (const [method, about] of Object.entries(methods)) {
    if (method === "parameters") continue;
    const body = lookUp(about.requestBody?.content);
    const answer = Object.values(about.responses).map((one) => lookUp(one.content)).find(Boolean);
    find("#paths").append(element("section", { class: "panel" },
      element("h3", { class: "wide" }, `${method.toUpperCase()} ${path}`),
      element("p", { class: "wide" }, about.summary, about.description ? ` ${about.description}` : ""),
      body ? element("details", { class: "wide" }, element("summary", {}, "Request"), fields(body)) : null,
      answer ? element("details", { class: "wide" }, element("summary", {}, "Answer"), fields(answer)) : null));
  }
}
