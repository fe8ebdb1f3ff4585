"use strict";
// The whole page is drawn from the events: reset carries everything, the others what changed.
const state = { vms: new Map(), migrations: new Map(), health: null };
const by = (id) => document.getElementById(id);

function row(cells) {
  const tr = document.createElement("tr");
  for (const cell of cells) {
    const td = document.createElement("td");
    if (cell && cell.progress !== undefined) {
      const bar = document.createElement("progress");
      bar.max = 100;
      bar.value = cell.progress;
      td.append(bar, " " + cell.progress + " %");
    } else {
      td.textContent = cell;
    }
    tr.append(td);
  }
  return tr;
}

const mib = (bytes) => Math.round(bytes / 1048576) + " MiB";
const ms = (us) => (us === null || us === undefined ? "" : (us / 1000).toFixed(2) + " ms");

function draw() {
  const vms = [...state.vms.values()].sort((a, b) => (a.name < b.name ? -1 : 1));
  by("vms").replaceChildren(...vms.map((vm) => row([
    vm.name, vm.status, vm.qemu.version + (vm.qemu.outdated ? " (outdated)" : ""), vm.pid || "", vm.generation, mib(vm.ram_bytes),
    vm.regions.map((r) => r.name + " " + r.state).join(", "),
  ])));
  const migrations = [...state.migrations.values()].sort((a, b) => (a.started_at > b.started_at ? -1 : 1)).slice(0, 50);
  by("migrations").replaceChildren(...migrations.map((m) => row([
    m.id, m.vm, m.phase, { progress: m.progress }, m.from.version, m.to.version, ms(m.pause_us), m.error ? m.error.detail : "",
  ])));
  const h = state.health;
  by("health").textContent = h ? (h.degraded ? "degraded" : h.ready ? "ready" : "not ready") : "";
}

function keep(map, key, event) {
  if (event.deleted) map.delete(key);
  else map.set(key, event.data);
}

const source = new EventSource("events");
source.onopen = () => { by("link").textContent = "live"; };
source.onerror = () => { by("link").textContent = "connection lost, trying again…"; };
const handlers = {
  reset(event) {
    state.vms = new Map(event.data.vms.map((vm) => [vm.name, vm]));
    state.migrations = new Map(event.data.migrations.map((m) => [m.id, m]));
    state.health = event.data.health;
    by("version").textContent = event.data.version;
  },
  vm(event) { keep(state.vms, event.vm, event); },
  migration(event) { keep(state.migrations, event.migration, event); },
  region(event) {
    const vm = state.vms.get(event.vm);
    if (vm) vm.regions = vm.regions.map((r) => (r.name === event.data.name ? event.data : r));
  },
  health(event) { state.health = event.data; },
};
for (const [name, handle] of Object.entries(handlers)) {
  source.addEventListener(name, (message) => { handle(JSON.parse(message.data)); draw(); });
}
