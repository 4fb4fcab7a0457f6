"""The command `espalier`: sub-commands come from the entry-point group `espalier.commands`, loaded when called."""

import importlib.metadata
import sys
from typing import Any

import typer
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
        """The sub-command, or None where there is none of that name."""
        for point in importlib.metadata.entry_points(group=GROUP, name=cmd_name):
            try:
                loaded = typer.main.get_command(point.load())
            except ModuleNotFoundError as error:
                loaded = _lacking(cmd_name, _foreign(error))
            loaded.name = cmd_name
            return loaded
        return None


def _lacking(name: str, module: str) -> Any:
    """A sub-command that says what it needs: the help of a board lists it, and calling it is an error."""
    stub = typer.Typer(add_completion=False)

    @stub.command(
        name,
        help=_escape(f"Not installed here: {_remedy(name)}."),
        add_help_option=False,
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )
    def refuse(_context: typer.Context) -> None:
        raise EspalierError(_needs(name, module))

    return typer.main.get_command(stub)


def _foreign(error: ModuleNotFoundError) -> str:
    """The module that is missing; one of our own is a broken installation, and raised on."""
    module = str(error.name)
    if module.split(".")[0] in ("device_runtime", "aggregator", "export", "firmware_profiles"):
        raise error
    return module


def _remedy(command: str) -> str:
    extra = "aggregator" if command in ("aggregator", "export", "report") else "demo"
    return f"pip install 'espalier-fl[{extra}]'"


def _needs(command: str, module: str) -> str:
    return f"'espalier {command}' needs {module}, which is not installed: {_remedy(command)}."


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
        _refuse(str(error))
    except ModuleNotFoundError as error:  # of a sub-command that imports what it needs when it is called
        command = next((a for a in sys.argv[1:] if not a.startswith("-")), "")
        _refuse(_needs(command, _foreign(error)))
    except KeyboardInterrupt:
        sys.exit(130)


def _refuse(sentence: str) -> None:
    typer.echo(typer.style("espalier:", fg="red", bold=True) + f" {sentence}", err=True)
    sys.exit(2)


def _escape(text: str) -> str:
    """`text` for help, where square brackets are markup."""
    return text.replace("[", "\\[")


if __name__ == "__main__":
    main()
