() => {
  // What the page's own scripts do: tooltips, keys, and one event when a number or a slider has come to rest.
  const help = HELP;
  const describe = () => {
    for (const [id, text] of Object.entries(help)) {
      const block = document.getElementById(id);
      if (!block || block.title) continue;
      block.title = text;
      block.querySelectorAll("input, textarea").forEach((input) => input.setAttribute("aria-description", text));
    }
  };
  describe();
  new MutationObserver(describe).observe(document.body, { childList: true, subtree: true });

  const press = (id) => document.getElementById(id)?.click();
  let rest;
  document.addEventListener("input", (event) => {
    if (!event.target.closest(".live")) return;
    clearTimeout(rest);
    rest = setTimeout(() => press("settle"), 400);
  });

  const keys = { r: "random", u: "undo", n: "renew" };
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("textarea, select, [contenteditable], input:not([type=range], [type=radio])");
    if (typing || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    if (keys[event.key]) press(keys[event.key]);
  });
}
