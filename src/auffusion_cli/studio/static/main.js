// The page: rooms by the address's hash, and the server's events passed on to them.

import * as api from "./api.js";
import { find, notify, report } from "./dom.js";
import { EditRoom } from "./edit.js";
import { HistoryRoom } from "./history.js";
import { MakeRoom } from "./make.js";
import { showQueue } from "./queue.js";

const ROOMS = ["make", "edit", "history"];
const STATES = { loading: "is loading", ready: "is ready", failed: "could not be loaded" };

function roomOfAddress() {
  const [name, id] = location.hash.slice(1).split("/");
  return ROOMS.includes(name) ? [name, id] : ["make", undefined];
}

async function start() {
  const info = await api.info();
  const open = (name, sound) => {
    location.hash = name === "edit" ? `edit/${sound.id}` : name;
    if (name === "make") make.fill(sound);
  };
  const make = new MakeRoom(info, open);
  const edit = new EditRoom(info);
  const history = new HistoryRoom(info, open);

  let shown;
  const showRoom = () => {
    const [name, id] = roomOfAddress();
    if (name !== shown) scrollTo(0, 0);
    shown = name;
    for (const room of ROOMS) {
      find(`#${room}`).hidden = room !== name;
      const link = find(`nav a[href="#${room}"]`);
      if (room === name) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    if (name === "edit" && id && /^[0-9a-f]{12}$/.test(id)) edit.take(id).catch(report);
    if (name === "history") history.show().catch(report);
  };
  addEventListener("hashchange", showRoom);
  showRoom();
  await make.start();

  api.watch(
    (state) => {
      find("#model").textContent = `${[info.model, ...info.loras].join(" + ")} ${STATES[state.state]}`;
      find("#model").dataset.state = state.state;
      if (state.failure) notify(state.failure);
      showQueue(state.jobs);
      make.update(state.jobs);
      edit.update(state.jobs);
    },
    () => {
      find("#model").textContent = "no connection to the server";
      find("#model").dataset.state = "failed";
    },
  );
}

start().catch(report);
