"""The command line: each command parses its words, calls one function and prints what came back.

The commands are in the modules of this folder by what they are about; here they become one program.
"""

from __future__ import annotations

import os
import sys

import typer

from rlaif.cli import constitution, data, files, judge, people, runs, serve
from rlaif.errors import RlaifError
from rlaif.processes import check_launcher, leads, several

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Reinforcement learning from AI feedback: from a written constitution to a trained policy.",
    epilog="Any command takes --traceback, which shows where in the code an error arose.",
)
app.command()(runs.run)
for _stage, _help in runs.STAGES.items():
    app.command(name=_stage, help=_help)(runs.stage_command(_stage))
_older = app.command(name="ppo", help="The stage optimise, by the name of its usual method.", hidden=True)
_older(runs.stage_command("optimise"))
for _command in (
    runs.iterate,
    runs.mine,
    files.check,
    judge.audit,
    judge.explain,
    judge.redteam,
    people.route,
    people.annotate,
    people.conflicts,
    people.export,
    runs.study,
    runs.compare,
    serve.serve,
    files.schema,
    files.version,
):
    app.command()(_command)
app.add_typer(people.annotators_app, name="annotators")
app.add_typer(judge.judge_app, name="judge")
app.add_typer(constitution.constitution_app, name="constitution")
app.add_typer(data.prompts_app, name="prompts")
app.add_typer(data.plan_app, name="plan")
app.add_typer(files.cache_app, name="cache")


def _refusal(error: OSError) -> str:
    """What the operating system refused (a full disk, a folder that cannot be written), on one line."""
    return f"{error.filename}: {error.strerror}" if error.filename else " ".join(str(error).split())


def _speaks() -> bool:
    """Whether this process says why it ends: of several that end together, one."""
    if not several():
        return True
    from rlaif.training import parallel

    return parallel.speaks_first() if parallel.size() > 1 else leads()


def main() -> None:
    """Entry point: an error that is the user's to mend is printed as it is, exit code 2, without a traceback."""
    # Before torch is loaded, which reads it once: threads that wait for each other soon sleep, and do not burn a core
    # that other work wants. In between (300 rounds, some microseconds) nothing is lost on an idle machine.
    os.environ.setdefault("GOMP_SPINCOUNT", "300")
    # Taken wherever it stands: who adds it to a command that failed adds it at the end.
    words = [word for word in sys.argv[1:] if word != "--traceback"]
    try:
        check_launcher()
        app(words)
    except (RlaifError, OSError) as error:
        if len(words) < len(sys.argv) - 1:
            raise
        if _speaks():
            typer.echo(f"error: {_refusal(error) if isinstance(error, OSError) else error}", err=True)
        sys.exit(2)
    except Exception:
        if _speaks():
            raise
        sys.exit(1)
    except SystemExit as end:
        if several():  # leave the other processes, all being at the end
            from rlaif.training import parallel

            parallel.stop()
        if end.code == 130:  # what Ctrl-C becomes on its way through typer
            typer.echo("stopped; run the same command again to go on", err=True)
        raise


if __name__ == "__main__":
    main()
