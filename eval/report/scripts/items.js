// The list of items with its filters. What models wrote is set as text, never as markup.
{
  const source = document.getElementById("items-data");
  if (source) browse(JSON.parse(source.textContent));

  function browse({ pairs, tasks, texts, items }) {
    const FIRST = 5, MORE = 20;
    const form = document.getElementById("items-filters");
    const list = document.getElementById("items-list");
    const count = document.getElementById("items-count");
    const more = document.getElementById("items-more");
    const lower = texts.map((text) => text.toLowerCase());
    let found = [], shown = 0;

    const element = (tag, className, ...content) => {
      const made = document.createElement(tag);
      if (className) made.className = className;
      made.append(...content);
      return made;
    };
    const text = (number) => (number === null ? "(no text)" : texts[number]);
    const score = (value) => String(Math.round(value * 1000) / 1000).replace("-", "−");

    function change(task, before, after) {
      if (task.binary) return `${before > 0.5 ? 1 : 0}${after > 0.5 ? 1 : 0}`;
      const gain = task.up ? after - before : before - after;
      return gain < 0 ? "worse" : gain > 0 ? "better" : "same";
    }
    const size = ({ before, after }) => Math.abs(after[0] - before[0]);
    const CHANGES = { 11: "1→1", 10: "1→0", "01": "0→1", "00": "0→0" };
    const WORSE = { 10: "worse", "01": "better" };

    function search() {
      const { pair, change: wanted, task: only, seed, text: words } = Object.fromEntries(new FormData(form));
      const compared = pairs[pair], query = words.trim().toLowerCase();
      const contains = (number) => number !== null && lower[number].includes(query);
      found = [];
      for (const [task, prompt, target, scores, answers] of items) {
        if (only !== "" && task !== Number(only)) continue;
        compared.sides.forEach(([old, now], index) => {
          if (seed !== "" && compared.seeds[index] !== Number(seed)) return;
          const kind = change(tasks[task], scores[old], scores[now]);
          if (wanted !== "" && kind !== wanted && WORSE[kind] !== wanted) return;
          if (query !== "" && ![prompt, target, answers[old], answers[now]].some(contains)) return;
          found.push({ task, prompt, target, kind, seed: compared.seeds[index], compared,
            before: [scores[old], answers[old]], after: [scores[now], answers[now]] });
        });
      }
      found.sort((a, b) => size(b) - size(a));  // stable: equal changes keep their order
      shown = 0;
      list.replaceChildren();
      count.textContent = `${found.length.toLocaleString("en")} found (an item counts once for each seed)`;
      extend(FIRST);
    }

    function extend(by) {
      found.slice(shown, shown + by).forEach((item) => list.append(article(item)));
      shown = Math.min(shown + by, found.length);
      more.hidden = shown === found.length;
      more.textContent = `Show ${Math.min(MORE, found.length - shown)} more`;
    }

    function article(item) {
      const task = tasks[item.task];
      const side = (name, [value, answer]) => element("div", "", element("p", "", `${name} · ${task.unit} ${score(value)}`), element("pre", "", text(answer)));
      const kind = CHANGES[item.kind] ?? item.kind;
      const made = element("article", "item",
        element("p", "meta", `${task.name} · seed ${item.seed} · ${kind}`),
        element("pre", "prompt", text(item.prompt)),
        element("div", "answers", side(item.compared.reference, item.before), side(item.compared.new, item.after)));
      if (item.target !== null) made.append(element("p", "meta", "right: ", element("span", "right", text(item.target))));
      made.tabIndex = -1;
      return made;
    }

    function offerSeeds() {
      const seeds = pairs[form.elements.pair.value].seeds, kept = form.elements.seed.value;
      form.elements.seed.replaceChildren(new Option("all", ""), ...seeds.map((seed) => new Option(seed, seed)));
      form.elements.seed.value = seeds.map(String).includes(kept) ? kept : "";
    }

    function move(by) {
      const articles = [...list.children];
      const at = articles.indexOf(document.activeElement?.closest?.("#items-list > article"));
      if (by > 0 && at === articles.length - 1 && !more.hidden) extend(MORE);
      const next = list.children[at < 0 ? 0 : at + by];
      next?.focus();
      next?.scrollIntoView({ block: "nearest" });
    }

    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", () => { offerSeeds(); search(); });
    more.addEventListener("click", () => {
      const next = shown;
      extend(MORE);
      list.children[next]?.focus({ preventScroll: true });
    });
    document.getElementById("items").addEventListener("keydown", (event) => {
      const typing = event.target.matches("input, select");
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key === "Enter" && event.target.matches("input")) move(1);
      else if (typing) return;
      else if (event.key === "j" || event.key === "k") move(event.key === "j" ? 1 : -1);
      else if (event.key === "/") form.elements.text.focus();
      else return;
      event.preventDefault();
    });
    offerSeeds();
    search();
  }
}
