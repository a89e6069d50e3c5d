"""Where a command may write: never over a file of a run."""

from __future__ import annotations

from pathlib import Path

from rlaif.errors import ConfigError


def not_a_run_file(out: Path | None) -> Path | None:
    """The value of an --out. ConfigError for a name that a run folder has for a file of its own, whatever its suffix:
    some commands write a second file beside the first, with another."""
    for folder in out.resolve().parents if out else ():
        if (folder / "recipe.yaml").is_file() and (folder / "manifest.json").is_file():
            from rlaif.run_folder import Run

            assert out
            top = Path(out.resolve().relative_to(folder).parts[0])
            own = {path.stem for name, path in vars(Run(folder)).items() if name != "folder"}
            if top.stem in own:
                raise ConfigError(f"--out {out}: {top} is the run's own in {folder}; name another file")
    return out
