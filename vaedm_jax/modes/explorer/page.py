"""The page of the explorer: its layout, and which action follows which event.

Gradio is an extra, so it is imported only where the page is built.
"""

import json
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from typing import Any

from vaedm_jax.errors import RunError, UserError
from vaedm_jax.modes.explorer import markup
from vaedm_jax.modes.explorer.actions import PLACE, SLOTS, Actions
from vaedm_jax.modes.explorer.drawing import Explorer
from vaedm_jax.modes.explorer.history import History
from vaedm_jax.modes.explorer.state import LIMIT
from vaedm_jax.sampling.inputs import PATHS

MOST_BYTES = 10 * 2**20  # of an upload
HERE = Path(__file__).parent
HELP = {
    "random": "Draw z from the prior. Key: R",
    "undo": "Go back to what was shown before. Key: U",
    "renew": "Take the next noise. Key: N",
    "preset": "Settings of the refiner that go well together",
    "seed": "The seed of x_T, the noise that the refiner starts from, and of the noise in each step",
    "steps": "Steps of the reverse chain. Each is an evaluation of the network, and with heun two",
    "sampler": "How the chain goes from u_t to u_0, the image",
    "start": "noise: the chain starts from x_T alone. warm: it starts from x̂, noised to the step t_start",
    "sliders": "z along the principal directions of training images, in standard deviations from their mean. "
    "The percentage is the share of the variance of z",
    "share": "Moves z on the path from A to B",
    "combine": "z = z_A − z_B + z_C",
    "path": "linear: a straight line in z. spherical: a great circle, which keeps the norm of z",
    "sigma": "σ, for pixels in [0, 1]",
    "x_hat": "x̂, which the VAE decodes from z",
    "refined": "x_0, which the refiner makes of x̂ and x_T",
}
SELECT = """
let last;
element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-index]");
  if (button) trigger("select", { index: (last = Number(button.dataset.index)) });
});
watch("value", () => {
  const list = element.querySelector("ol"), now = element.querySelector("[aria-current]");
  const right = (item) => item.getBoundingClientRect().right;
  if (last !== undefined) element.querySelector(`[data-index="${last}"]`)?.focus();
  else if (now) list.scrollLeft += right(now) - right(list);
  last = undefined;
});
"""
ARRIVE, DRAW = "query => explorer.arrive(query)", "query => explorer.draw(query)"
READ_ADDRESS = "() => [location.search.slice(1)]"
COPY_ADDRESS = """() => {
  const copied = navigator.clipboard?.writeText(location.href) ?? Promise.reject();
  copied.catch(() => prompt("The address of this picture", location.href));
}"""
DOWNLOAD = """text => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.download = "vaedm.json";
  link.click();
  URL.revokeObjectURL(link.href);
}"""


def build_page(explorer: Explorer, title: str, noun: str = "image") -> Any:
    """Return the page, a `gradio.Blocks`.

    Args:
      noun: what the page calls an image of the model.
    """
    import gradio as gr

    with gr.Blocks(title=title, analytics_enabled=False) as page:
        connect(page, Actions(explorer), **lay_out(explorer, title, noun))
    return page


def picture_route(actions: Actions) -> Any:
    """Return the route of the images, at which the browser asks for them by the query of a state."""
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse, Response
    from starlette.routing import Route

    def answer(request: Request) -> Response:
        if (name := request.path_params["name"]) not in ("x_hat", "refined"):
            return PlainTextResponse("there is no such image", 404)
        try:
            png = actions.draw(name, request.url.query)
        except (UserError, RunError) as error:
            return PlainTextResponse(str(error), 422)
        return Response(png, media_type="image/png", headers={"Cache-Control": "private, max-age=3600"})

    return Route(f"/{PLACE}/{{name}}", answer)


def launch(page: Any, explorer: Explorer, **place: Any) -> tuple[Any, str, str]:
    """Serve the page. The process goes on.

    Args:
      place: `server_name` and `server_port`.
    """
    import gradio as gr

    font = ("system-ui", "sans-serif")
    return page.launch(
        **place,
        max_file_size=MOST_BYTES,
        quiet=True,
        show_error=True,
        share=False,
        footer_links=[],
        prevent_thread_lock=True,
        app_kwargs={"routes": [picture_route(Actions(explorer))]},
        theme=gr.themes.Default(
            primary_hue="indigo",
            secondary_hue="indigo",
            neutral_hue="slate",
            text_size="sm",
            spacing_size="sm",
            font=font,
            font_mono=font,
        ),
        css=(HERE / "page.css").read_text("utf-8"),
        js=(HERE / "page.js").read_text("utf-8").replace("HELP", json.dumps(HELP)),
    )


def lay_out(explorer: Explorer, title: str, noun: str) -> dict[str, Any]:
    """Place the components on the page that is being built; return them by name."""
    import gradio as gr

    p: dict[str, Any] = {"history": gr.State(History()), "rest": gr.State(()), "slots": gr.State(())}
    for name in ("address", "file"):  # what the server gives to a script of the page
        p[name] = gr.Textbox(visible=False)
    p["resting"] = gr.Button(elem_id="rest", visible="hidden")  # the script of the page presses it
    with gr.Row(elem_id="head"):
        gr.Markdown(f"# {title}")
        p["random"] = gr.Button(f"Random {noun}", elem_id="random", variant="primary", size="sm")
        p["undo"] = gr.Button("Undo", elem_id="undo", size="sm")
        p["copy"] = gr.Button("Copy link", elem_id="copy", size="sm")
        p["save"] = gr.Button("Save", elem_id="save", size="sm")
        p["load"] = gr.UploadButton("Open", elem_id="load", file_types=[".json"], type="filepath", size="sm")
    with gr.Row(elem_id="panes"):
        with gr.Column(elem_id="pictures"):
            with gr.Row():
                for name, label, symbol in (("x_hat", "Image of the VAE", "x̂"), ("refined", "Refined image", "x₀")):
                    empty = markup.image("", label, explorer.model.engine.networks.size)
                    gr.HTML(markup.titled(empty, label, symbol), elem_id=name)
            p["note"] = gr.HTML(elem_id="note")
        with gr.Column(elem_id="controls"):
            lay_out_tabs(explorer, noun, p)
        with gr.Column(elem_id="settings"):
            lay_out_settings(explorer, p)
            p["strip"] = gr.HTML(elem_id="strip", js_on_load=SELECT)
    return p


def lay_out_settings(explorer: Explorer, p: dict[str, Any]) -> None:
    """Place the settings of the refiner below the images."""
    import gradio as gr

    own, allowed = explorer.own, explorer.allowed
    with gr.Row(elem_id="chain"):
        p["preset"] = gr.Radio(list(explorer.presets), label="Preset", elem_id="preset")
        p["steps"] = gr.Number(own.steps, label="Steps", precision=0, minimum=1, maximum=allowed.steps, elem_id="steps")
        p["sampler"] = gr.Dropdown(list(allowed.samplers), value=own.sampler, label="Sampler", elem_id="sampler")
        p["start"] = gr.Dropdown(list(allowed.starts), value=own.start, label="Start", elem_id="start")
        p["seed"] = gr.Number(0, label="Noise seed", precision=0, minimum=0, maximum=2**32 - 1, elem_id="seed")
        p["renew"] = gr.Button("New noise", elem_id="renew", size="sm")


def lay_out_tabs(explorer: Explorer, noun: str, p: dict[str, Any]) -> None:
    """Place the tabs at the left: the sliders, mixing, and restoration."""
    import gradio as gr

    def drop(label: str, name: str) -> gr.Image:
        image = gr.Image(
            label=label, type="filepath", image_mode=None, sources=["upload", "clipboard"], height=130, elem_id=name
        )
        # Pass on the file unopened: `data.picture` refuses files that are huge or not pictures.
        image.preprocess = lambda payload: payload and payload.path
        return image

    shares = explorer.directions.shares[: explorer.directions.sliders]
    with gr.Tab("Sliders"):
        with gr.Column(elem_id="sliders"):
            p["sliders"] = [
                gr.Slider(
                    *(-LIMIT, LIMIT, 0), step=0.1, label=f"Direction {k + 1}: {share:.0%}", elem_id=f"z{k}", buttons=[]
                )
                for k, share in enumerate(shares)
            ]
        p["dropped"] = drop("Or start from a picture", "dropped")
    with gr.Tab("Mix"):
        p["slot_images"] = gr.HTML(elem_id="slots")
        with gr.Row(elem_id="keep"):
            p["keep"] = [gr.Button(f"Keep as {name}", elem_id=f"keep{name}", size="sm") for name in SLOTS]
        p["share"] = gr.Slider(0, 1, 0, step=0.01, label="From A to B", elem_id="share", buttons=[])
        p["path"] = gr.Radio(list(PATHS), value=PATHS[0], label="Path", elem_id="path")
        with gr.Row():
            p["combine"] = gr.Button("A − B + C", elem_id="combine", size="sm")
            p["interpolate"] = gr.Button("Show the path", elem_id="interpolate", size="sm")
        p["way"] = gr.HTML(elem_id="way")
    with gr.Tab("Restore"):
        p["damaged"] = drop("Reduced or noisy picture", "damaged")
        p["task"] = gr.Radio([("Enlarge", "super"), ("Denoise", "denoise")], value="super", label="Task")
        p["factor"] = gr.Slider(2, 8, 2, step=1, label="Factor by which it was reduced", buttons=[])
        p["sigma"] = gr.Slider(0.02, 0.5, 0.1, label="Strength of its noise", elem_id="sigma", buttons=[])
        p["restore"] = gr.Button("Restore", elem_id="restore", size="sm")
        p["restored"] = gr.HTML(elem_id="restored")


def connect(page: Any, actions: Actions, **p: Any) -> None:
    """Connect the events of the page to the actions.

    Args:
      p: the components of `lay_out`.
    """
    import gradio as gr

    def told(action: Callable) -> Callable:
        """Return the action with its errors shown on the page."""

        @wraps(action)
        def call(*inputs: Any) -> Any:
            try:
                return action(*inputs)
            except (UserError, RunError) as error:
                raise gr.Error(str(error), print_exception=False) from error

        return call

    controls = [p["rest"], *p["sliders"], p["seed"], p["steps"], p["sampler"], p["start"]]
    history, address, kept = p["history"], p["address"], [p["slots"], p["slot_images"]]
    shown = [history, p["strip"], address, p["preset"], p["note"]]
    arrival, here, quiet = [*shown, *controls], [history, *controls], dict(show_progress="hidden")

    def act(event: Callable, action: Callable, inputs: list, outputs: list = arrival, script: str = ARRIVE, **how: Any):
        """Do an action at an event, and then draw the images of the address."""
        event(told(action), inputs, outputs, **quiet, **how).success(None, address, js=script, **quiet)

    act(page.load, actions.open, [address], [*arrival, *kept], js=READ_ADDRESS)
    act(p["resting"].click, actions.rest, here, shown, trigger_mode="always_last")
    for name in ("sampler", "start"):
        act(p[name].input, actions.rest, here, shown)
    for name in ("random", "renew", "undo"):
        act(p[name].click, getattr(actions, name), here)
    act(p["preset"].input, actions.choose, [p["preset"], *here])
    act(p["dropped"].upload, actions.find, [p["dropped"], *here])
    act(p["load"].upload, actions.load, [p["load"], history])

    def visit(history: History, event: gr.EventData) -> Any:
        return actions.visit(history, int(event.index))

    act(p["strip"].select, visit, [history])
    for slot, button in enumerate(p["keep"]):
        button.click(told(partial(actions.keep, slot)), [p["slots"], *controls], kept, **quiet)
    path = [p["path"], p["slots"]]
    moved = [address, *controls]
    act(p["share"].input, actions.mix, [p["share"], *path, *controls], moved, DRAW, trigger_mode="always_last")
    act(p["combine"].click, actions.combine, [p["slots"], *here])
    p["interpolate"].click(told(actions.interpolate), [*path, *controls], p["way"], **quiet)
    damage = [p["damaged"], p["task"], p["factor"], p["sigma"]]
    p["restore"].click(told(actions.restore), damage, p["restored"])
    p["copy"].click(None, js=COPY_ADDRESS)
    p["save"].click(told(actions.save), controls, p["file"], **quiet).success(None, p["file"], js=DOWNLOAD, **quiet)
