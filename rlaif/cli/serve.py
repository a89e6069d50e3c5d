"""The command `serve`: a reward or a judge behind HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rlaif.cli.options import Overrides

TARGET = "A run or its reward_model/, a recipe (its optimise.scoring), or a constitution (with --judge)."


def serve(  # noqa: PLR0913 (each is an option)
    target: Annotated[str, typer.Argument(metavar="TARGET", help=TARGET)],
    overrides: Overrides = None,
    *,
    guard: Annotated[
        str | None,
        typer.Option(
            metavar="POLICY",
            help="A chat endpoint before this run or model; TARGET is the constitution, or a guard's YAML file.",
        ),
    ] = None,
    judge: Annotated[
        str | None, typer.Option(help="Of a constitution: vllm:NAME, http://host:8000/v1#NAME, local:NAME.")
    ] = None,
    mode: Annotated[str | None, typer.Option(help="Of a constitution: score, checklist or contrast.")] = None,
    run: Annotated[Path | None, typer.Option(help="Of a recipe: the run that has its reward model.")] = None,
    template: Annotated[
        str | None, typer.Option(help="The model whose chat template the trainers' texts have.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Records go here. Default: services/<target>.")] = None,
    host: Annotated[str, typer.Option(help="Beyond 127.0.0.1 a token is asked for.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 8790,
    token_env: Annotated[str | None, typer.Option(help="The environment variable that holds the token.")] = None,
    waiting: Annotated[int, typer.Option(min=1, help="Questions that may wait.")] = 4096,
    batch: Annotated[int, typer.Option(min=1, help="Questions worked on together, at most.")] = 256,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds for one request.")] = 170.0,
) -> None:
    """Answer trainers over HTTP: OpenRLHF, verl, slime, LLaMA-Factory, NeMo-Gym, and plain /score and /judge.

    With --guard: answer chats, in OpenAI's protocol, by a policy behind a constitution.
    """
    from rlaif.serve.opening import Wish
    from rlaif.serve.server import Address, serve
    from rlaif.serve.service import Limits

    wish = Wish(target, overrides or (), judge, mode, run, template)
    folder = out or Path("services") / Path(target).expanduser().resolve().stem
    address, limits = Address(host, port, token_env), Limits(waiting, batch, timeout)
    if guard is not None:
        from rlaif.serve.guard.service import serve_guard

        serve_guard(wish, guard, folder, address, limits)
        return
    serve(wish, folder, address, limits)
