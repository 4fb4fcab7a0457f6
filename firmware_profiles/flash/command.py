"""`espalier flash …`: an image or a card that installs the device runtime at first boot, and the wheels for it."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as ProgressBar

from device_runtime.wire.errors import UsageError
from firmware_profiles.catalogue import load_board
from firmware_profiles.flash.device import Device, Wifi

if TYPE_CHECKING:
    from firmware_profiles.flash.disk_image import Progress

app = typer.Typer(add_completion=False, help="Prepare a card for a board.", no_args_is_help=True)
Board = Annotated[str, typer.Option("--board", help="The board's id; espalier boards lists them.")]
Name = Annotated[str, typer.Option("--name", help="The device's name, unique at its site.")]
Gateway = Annotated[
    str, typer.Option("--gateway", help="The broker: HOST or HOST:PORT. Port 8883 with --ca, else 1883.")
]
Site = Annotated[str, typer.Option("--site", help="The site's name.")]
House = Annotated[Path | None, typer.Option("--wheelhouse", help="Install from this folder, without a network.")]
Data = Annotated[str, typer.Option("--data", help="Where the device's data will be: file, folder or module:callable.")]
Ca = Annotated[Path | None, typer.Option("--ca", help="Who signed the broker's certificate; turns TLS on.")]
Certificate = Annotated[Path | None, typer.Option("--certificate", help="The device's certificate.")]
Key = Annotated[Path | None, typer.Option("--key", help="The certificate's key.")]
User = Annotated[str, typer.Option("--username", help="Login at the broker.")]
Password = Annotated[Path | None, typer.Option("--password-file", help="Its password, on the first line.")]
Ssh = Annotated[Path | None, typer.Option("--ssh-key", help="Public key that may log in as --user.")]
SshUser = Annotated[str, typer.Option("--user", help="The person's account for --ssh-key.")]
Ssid = Annotated[str, typer.Option("--wifi", help="Name of the wireless network.")]
WifiPassword = Annotated[Path | None, typer.Option("--wifi-password-file", help="Its pass phrase, on the first line.")]
Country = Annotated[str, typer.Option("--wifi-country", help="Two letters; sets the allowed channels.")]
Json = Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")]


@app.callback()
def flash() -> None:
    """Prepare a card for a board."""


@app.command()
def image(
    source: Annotated[Path, typer.Argument(metavar="IN", help="An official image, .img or .img.xz.")],
    board: Board,
    name: Name,
    gateway: Gateway,
    out: Annotated[Path, typer.Option("--out", help="The image to write; its manifest lies beside it.")],
    site: Site = "site",
    wheelhouse: House = None,
    data: Data = "/var/lib/espalier/data",
    ca: Ca = None,
    certificate: Certificate = None,
    key: Key = None,
    username: User = "",
    password_file: Password = None,
    ssh_key: Ssh = None,
    user: SshUser = "espalier-admin",
    wifi: Ssid = "",
    wifi_password_file: WifiPassword = None,
    wifi_country: Country = "",
    sha256: Annotated[str, typer.Option("--sha256", help="The published hash of IN; another one is refused.")] = "",
    json: Json = False,
) -> None:
    """Write a copy of an official Raspberry Pi OS image that installs the device runtime by itself, without root."""
    from firmware_profiles.flash.provision import provision_image

    secrets = read_secrets(ca, certificate, key, password_file)
    network = _wifi(wifi, wifi_password_file, wifi_country)
    device = make_device(board, name, gateway, site, username, data, secrets, ssh_key, user, network)
    record = _shown(lambda progress: provision_image(source, out, device, wheelhouse, sha256, progress))
    _tell(record, f"{out} is ready; write it with Raspberry Pi Imager or dd. {_keep_manifest(out, record)}", json)


@app.command()
def card(
    folder: Annotated[Path, typer.Argument(help="The mounted boot partition, e.g. /media/me/bootfs.")],
    board: Board,
    name: Name,
    gateway: Gateway,
    site: Site = "site",
    wheelhouse: House = None,
    data: Data = "/var/lib/espalier/data",
    ca: Ca = None,
    certificate: Certificate = None,
    key: Key = None,
    username: User = "",
    password_file: Password = None,
    ssh_key: Ssh = None,
    user: SshUser = "espalier-admin",
    wifi: Ssid = "",
    wifi_password_file: WifiPassword = None,
    wifi_country: Country = "",
    json: Json = False,
) -> None:
    """Do the same to a card that was written already and whose boot partition is mounted."""
    from firmware_profiles.flash.provision import provision_card

    secrets = read_secrets(ca, certificate, key, password_file)
    network = _wifi(wifi, wifi_password_file, wifi_country)
    device = make_device(board, name, gateway, site, username, data, secrets, ssh_key, user, network)
    record = _shown(lambda progress: provision_card(folder, device, wheelhouse, progress))
    _tell(record, f"{folder} is ready; unmount it, and start the board with it", json)


@app.command()
def seed(
    board: Board,
    name: Name,
    gateway: Gateway,
    out: Annotated[Path, typer.Option("--out", help="The small image to write; its manifest lies beside it.")],
    site: Site = "site",
    wheelhouse: House = None,
    data: Data = "/var/lib/espalier/data",
    ca: Ca = None,
    certificate: Certificate = None,
    key: Key = None,
    username: User = "",
    password_file: Password = None,
    ssh_key: Ssh = None,
    user: SshUser = "espalier-admin",
    wifi: Ssid = "",
    wifi_password_file: WifiPassword = None,
    wifi_country: Country = "",
    json: Json = False,
) -> None:
    """Write a small medium that installs the runtime on any 64-bit ARM system with cloud-init, such as Debian's."""
    from firmware_profiles.flash.provision import provision_seed

    secrets = read_secrets(ca, certificate, key, password_file)
    network = _wifi(wifi, wifi_password_file, wifi_country)
    device = make_device(board, name, gateway, site, username, data, secrets, ssh_key, user, network)
    record = _shown(lambda progress: provision_seed(out, device, wheelhouse, progress))
    _tell(
        record, f"{out} is ready; give it to the board as a second disk or stick. {_keep_manifest(out, record)}", json
    )


@app.command()
def wheelhouse(
    out: Annotated[Path, typer.Option("--out", help="A new folder for the wheels and their lock.")],
    python: Annotated[str, typer.Option("--python", help="Of the system: 3.13 is Trixie, 3.11 Bookworm.")] = "3.13",
    wheel: Annotated[Path | None, typer.Option("--wheel", help="Espalier's own wheel, instead of a download.")] = None,
    kernels: Annotated[
        Path | None, typer.Option("--kernels", help="The wheel of engine sparse, for 64-bit ARM.")
    ] = None,
    json: Json = False,
) -> None:
    """Gather every wheel that a 64-bit ARM board needs, and lock them by hash. Needs the package index."""
    from firmware_profiles.flash.wheelhouse import gather, run_pip

    with Console(stderr=True).status("pip downloads the wheels"):
        house = gather(out, python, wheel, run_pip, kernels)
    if json:
        typer.echo(msgspec.json.format(msgspec.json.encode(house)).decode())
        return
    size = sum(w.size_bytes for w in house.wheels) / 2**20
    typer.echo(f"{len(house.wheels)} wheels for Python {python}, {size:.1f} MiB, in {out}")


def make_device(
    board: str, name: str, gateway: str, site: str, username: str, data: str, secrets: dict[str, bytes],
    ssh_key: Path | None, user: str, wifi: Wifi | None,
) -> Device:  # fmt: skip
    """The device that the options describe. Raises UsageError naming the option that is wrong."""
    host, port = parse_gateway(gateway, 8883 if "ca.crt" in secrets else 1883)
    if "device.crt" in secrets and "ca.crt" not in secrets:
        raise UsageError("--certificate and --key need --ca too: who signed the broker's certificate.")
    if ("password" in secrets) != bool(username):
        raise UsageError("--username and --password-file go together: give both or neither.")
    return Device(
        board=load_board(board),
        name=name,
        host=host,
        port=port,
        site=site,
        username=username,
        data=data,
        secrets=secrets,
        ssh_key=_read(ssh_key, "--ssh-key").decode("utf-8", "replace").strip() if ssh_key else "",
        user=user,
        wifi=wifi,
        flashed_s=int(time.time()),
    )


def parse_gateway(text: str, port: int) -> tuple[str, int]:
    """HOST, HOST:PORT or [IPv6]:PORT."""
    host, separator, tail = text.rpartition(":")
    bare = not separator or text.endswith("]") or (":" in host and not host.startswith("["))
    if bare:
        return text.strip("[]"), port
    if not tail.isascii() or not tail.isdigit():
        raise UsageError(f"--gateway {text!r}: the port is not a number.")
    return host.strip("[]"), int(tail)


def read_secrets(
    ca: Path | None, certificate: Path | None, key: Path | None, password: Path | None
) -> dict[str, bytes]:
    """The files that only the service may read on the board, by the names they have there."""
    if bool(certificate) != bool(key):
        raise UsageError("--certificate and --key go together: give both or neither.")
    given = {"ca.crt": ca, "device.crt": certificate, "device.key": key, "password": password}
    options = {"ca.crt": "--ca", "device.crt": "--certificate", "device.key": "--key", "password": "--password-file"}
    return {name: _read(path, options[name]) for name, path in given.items() if path}


def _wifi(ssid: str, password: Path | None, country: str) -> Wifi | None:
    if not ssid and not password:
        return None
    if not ssid or not password:
        raise UsageError("--wifi and --wifi-password-file go together: give both or neither.")
    lines = _read(password, "--wifi-password-file").decode("utf-8", "replace").splitlines()
    return Wifi(ssid, lines[0] if lines else "", country)


def _read(path: Path, option: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{option} {str(path)!r} cannot be read: {error.strerror}.") from error


def _shown(work: "Callable[[Progress], dict[str, Any]]") -> dict[str, Any]:
    """The result of `work`, which tells a bar how far it is."""
    columns = (TextColumn("{task.description}"), BarColumn())
    with ProgressBar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("reading", total=None)
        return work(lambda what, done, total: bar.update(task, description=what, completed=done, total=total))


def _keep_manifest(out: Path, record: dict[str, Any]) -> str:
    """Write the manifest beside what was written; where it is."""
    place = out.with_name(out.name + ".json")
    place.write_bytes(msgspec.json.format(msgspec.json.encode(record)))
    return f"Manifest: {place}"


def _tell(record: dict[str, Any], sentence: str, json: bool) -> None:
    if json:
        typer.echo(msgspec.json.format(msgspec.json.encode(record)).decode())
        return
    console = Console(soft_wrap=True, highlight=False)
    console.print(
        f"{record['name']} on {record['board']}, {record['format']}, broker {record['gateway']}", markup=False
    )
    files, size = len(record["files"]), sum(f["size_bytes"] for f in record["files"])
    console.print(f"{files} files, {size / 2**20:.1f} MiB; read back equal", markup=False)
    console.print(sentence, markup=False)
