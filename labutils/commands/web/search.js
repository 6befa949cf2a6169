// Sections that have all words of the question, those with the words in their heading first.
const box = document.getElementById("q"), list = document.getElementById("found"), count = document.getElementById("count");
const plain = (text) => text.toLowerCase().normalize("NFKD").replace(/[\u0300-\u036f]/g, "");
const pages = window.SITE.map(([title, where, address, text]) =>
  ({title, where, address, text, head: plain(title), body: plain(`${title} ${where} ${text}`)}));
const begins = (word) => new RegExp(`(^|[^\\p{L}\\p{N}])${word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")}`, "u");

function ask(question) {
  const words = plain(question).split(/\s+/).filter(Boolean).map(begins);
  if (!words.length) return [];
  const score = (page) => words.filter((word) => word.test(page.head)).length;
  return pages.filter((page) => words.every((word) => word.test(page.body))).sort((a, b) => score(b) - score(a));
}

function show() {
  const found = ask(box.value), first = plain(box.value).split(/\s+/).filter(Boolean)[0];
  list.replaceChildren(...found.slice(0, 50).map((page) => {
    const item = document.createElement("li"), link = document.createElement("a"), text = document.createElement("p");
    link.href = page.address;
    link.textContent = page.title;
    const at = Math.max(0, plain(page.text).indexOf(first) - 60);
    text.textContent = `${page.where}: ${at ? "…" : ""}${page.text.slice(at, at + 200)}…`;
    item.append(link, text);
    return item;
  }));
  if (box.value.trim()) count.textContent = found.length === 1 ? "One place" : `${found.length} places`;
}

box.value = new URLSearchParams(location.search).get("q") ?? "";
box.addEventListener("input", show);
box.form.addEventListener("submit", (event) => event.preventDefault());
show();
