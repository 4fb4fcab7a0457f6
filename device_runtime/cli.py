"""The command `espalier`: sub-commands come from the entry-point group `espalier.commands`, loaded when called."""

import importlib.metadata
import sys
from typing import Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from device_runtime.wire.errors import EspalierError
from device_runtime.wire.version import VERSION

GROUP = "espalier.commands"


class LazyGroup(TyperGroup):
    """Finds sub-commands among the installed entry points and imports only the one that is called."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of all installed sub-commands."""
        return sorted(p.name for p in importlib.metadata.entry_points(group=GROUP))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The sub-command, or None where it, or what it needs, is not installed."""
        for point in importlib.metadata.entry_points(group=GROUP, name=cmd_name):
            try:
                loaded = typer.main.get_command(point.load())
            except ModuleNotFoundError as error:
                if error.name and error.name.split(".")[0] in ("device_runtime", "aggregator", "export"):
                    raise
                extra = {"demo": "demo", "aggregator": "aggregator", "export": "aggregator"}.get(cmd_name, "demo")
                raise EspalierError(
                    f"'espalier {cmd_name}' needs {error.name}, which is not installed: "
                    f"pip install 'espalier-fl[{extra}]'."
                ) from error
            loaded.name = cmd_name
            return loaded
        return None


app = typer.Typer(
    cls=LazyGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Espalier: federated training of pruned models on small ARM boards.",
)


@app.callback(invoke_without_command=True)
def root(version: bool = typer.Option(False, "--version", help="Print the version and stop.")) -> None:
    """Espalier: federated training of pruned models on small ARM boards."""
    if version:
        typer.echo(f"espalier {VERSION}")
        raise typer.Exit()


def main() -> None:
    """Run the command line; an error a person can mend is one sentence and exit status 2, never a traceback."""
    try:
        app()
    except EspalierError as error:
        Console(stderr=True, soft_wrap=True, highlight=False).print(f"[bold red]espalier:[/] {_escape(str(error))}")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def _escape(text: str) -> str:
    return text.replace("[", "\\[")


if __name__ == "__main__":
    main()
