// The queue at the bottom of the page: what is worked on, what waits, and a way to cancel it.

import { cancel } from "./api.js";
import { button, element, find, guarded } from "./dom.js";

export function showQueue(jobs) {
  const unfinished = jobs.filter((job) => ["running", "waiting"].includes(job.status));
  find("#queue").hidden = unfinished.length === 0;
  const list = find("#jobs");
  const rows = new Map([...list.children].map((row) => [row.dataset.id, row]));
  for (const job of unfinished) {
    const row = rows.get(job.id) ?? list.appendChild(newRow(job));
    rows.delete(job.id);
    find(".status", row).textContent =
      job.status === "waiting" ? "waits" : job.n_steps ? `${job.n_done} of ${job.n_steps} steps` : "begins";
    const bar = find("progress", row);
    bar.max = job.n_steps || 1;
    bar.value = job.n_done;
  }
  for (const row of rows.values()) row.remove();
}

const newRow = (job) =>
  element("li", { "data-id": job.id },
    element("bdi", { class: "title" }, job.title || job.task),
    element("span", { class: "status soft" }),
    element("progress", { value: 0, max: 1, "aria-label": `Progress of ${job.title || job.task}` }),
    button("Cancel", guarded(() => cancel(job.id)), { "aria-label": `Cancel ${job.title || job.task}` }));
