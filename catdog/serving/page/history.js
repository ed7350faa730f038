// Answers that stay in this browser, in IndexedDB. Where it is not to be had (some private windows), nothing is kept.

const MOST = 500; // the oldest go first

let opened = null;

function open() {
  opened ??= new Promise((resolve, reject) => {
    const request = indexedDB.open("catdog", 1);
    request.onupgradeneeded = () => request.result.createObjectStore("answers", { keyPath: "id" });
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
  return opened;
}

async function run(mode, work) {
  try {
    const transaction = (await open()).transaction("answers", mode);
    const request = work(transaction.objectStore("answers"));
    transaction.commit(); // at once: what is not committed is lost when the page is left
    return await new Promise((resolve, reject) => {
      request.onsuccess = () => resolve(request.result);
      request.onerror = () => reject(request.error);
    });
  } catch {
    return undefined;
  }
}

/** Returns what is kept, the newest first. */
export async function load() {
  const rows = (await run("readonly", (store) => store.getAll())) ?? [];
  rows.sort((a, b) => b.id - a.id);
  for (const row of rows.slice(MOST)) forget(row.id);
  return rows.slice(0, MOST);
}

export const keep = (row) => run("readwrite", (store) => store.put(row));
export const forget = (id) => run("readwrite", (store) => store.delete(id));
export const clear = () => run("readwrite", (store) => store.clear());
