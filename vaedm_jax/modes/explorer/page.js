// The scripts of the page: images that follow the sliders, tooltips, and keys.
() => {
  const byId = (id) => document.getElementById(id);

  // Images. Each pane asks for one image at a time, and then for the latest that was wanted in the meantime.
  const say = (text) => {
    const note = document.querySelector("#note p");
    if (note) note.textContent = text;
  };
  const pane = (name) => {
    let shown, wanted;
    let [busy, failed] = [false, false];
    return async (query) => {
      wanted = query;
      if (busy) return;
      busy = true;
      byId(name).classList.add("drawing");
      while (wanted !== shown) {
        shown = wanted;
        failed = false;
        try {
          const answer = await fetch(`picture/${name}?${shown}`);
          if (!answer.ok) throw new Error(await answer.text());
          const image = byId(name).querySelector("img");
          URL.revokeObjectURL(image.src);
          image.src = URL.createObjectURL(await answer.blob());
          image.dataset.query = shown;
        } catch (error) {
          say(error.message);
          failed = true;
        }
      }
      if (failed) shown = undefined; // so that it is asked for again
      byId(name).classList.remove("drawing");
      busy = false;
    };
  };
  const panes = [pane("x_hat"), pane("refined")];
  let present = "";
  const draw = (query) => {
    present = query;
    panes.forEach((show) => show(query));
  };
  window.explorer = {
    draw,
    arrive: (query) => {
      draw(query);
      history.replaceState(null, "", `?${query}`);
    },
  };

  // A slider of z changes its number in the query. When a control has come to rest, the server hears of it.
  let rest;
  document.addEventListener("input", (event) => {
    const slider = event.target.closest("#sliders [id^=z]");
    if (slider && event.target.value !== "") {
      const fields = new URLSearchParams(present);
      const position = fields.get("position").split(",");
      const value = Math.min(event.target.max, Math.max(event.target.min, event.target.value));
      position[slider.id.slice(1)] = value;
      fields.set("position", position.join(","));
      say("");
      draw(fields.toString().replaceAll("%2C", ",")); // as the server writes it
    }
    if (slider || event.target.closest("#share, #seed, #steps")) {
      clearTimeout(rest);
      rest = setTimeout(() => byId("rest").click(), 400);
    }
  });

  // Keys.
  const keys = { r: "random", u: "undo", n: "renew" };
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("textarea, select, [contenteditable], input:not([type=range], [type=radio])");
    if (typing || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    if (keys[event.key]) byId(keys[event.key]).click();
  });

  // Tooltips, which screen readers read too.
  const help = HELP;
  const describe = () => {
    for (const [id, text] of Object.entries(help)) {
      const block = byId(id);
      if (!block || block.title) continue;
      block.title = text;
      block.querySelectorAll("input").forEach((input) => input.setAttribute("aria-description", text));
    }
  };
  describe();
  new MutationObserver(describe).observe(document.body, { childList: true, subtree: true });
}
