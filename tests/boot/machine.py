"""An emulated board with a card: qemu's `virt` machine, booted from what lies on the card's boot partition."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from aggregator.demo.broker import free_port

ROOT = Path(__file__).parents[2]
BOOT_OFFSET = 16384 * 512  # of the boot partition, as scripts/arm-system lays it out
BOOT_BYTES = 512 * 2**20
GATEWAY = "10.0.2.100"  # by this address the board reaches the broker, and nothing else
GATEWAY_PORT = 8883
CANNOT = 3  # exit status of scripts/arm-system
MAKE_TIMEOUT_S = 1500


class NoMachineError(Exception):
    """No board can be emulated on this machine; the text says why."""


def make_system() -> Path:
    """The system image of scripts/arm-system, made if it is not there yet. Raises NoMachineError where it cannot be."""
    if shutil.which("qemu-system-aarch64") is None:
        raise NoMachineError("qemu-system-aarch64 is not installed (apt install qemu-system-arm).")
    done = subprocess.run(
        [ROOT / "scripts" / "arm-system"], capture_output=True, text=True, timeout=MAKE_TIMEOUT_S, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    if done.returncode == CANNOT:
        raise NoMachineError(done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.splitlines()[-1])


def find_tool(name: str) -> str:
    """A program, also where only root has it on the path. Raises NoMachineError when it is not installed."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if found is None:
        raise NoMachineError(f"{name} is not installed.")
    return found


@dataclass
class Machine:
    """A board that is switched on and off. `card` is its disk, `seed` a stick in it, `console` what its serial line
    says; `ssh_key` opens it on port `ssh_port` of this host."""

    card: Path
    console: Path
    broker_port: int
    ssh_key: Path
    ssh_port: int = field(default_factory=free_port)
    seed: Path | None = None
    process: subprocess.Popen[bytes] | None = None

    def power_on(self) -> None:
        """Do as a board's firmware does: take kernel, initramfs and command line from the boot partition."""
        folder = self.card.with_name("firmware")
        folder.mkdir(exist_ok=True)
        for name in ("kernel8.img", "initramfs8"):
            (folder / name).write_bytes(self.read(name))
        command_line = f"{self.read('cmdline.txt').decode().strip()} console=ttyAMA0"
        relay = f"{sys.executable} -I -S {ROOT / 'tests' / 'boot' / 'relay.py'} {self.broker_port}"
        doors = f"guestfwd=tcp:{GATEWAY}:{GATEWAY_PORT}-cmd:{relay},hostfwd=tcp:127.0.0.1:{self.ssh_port}-:22"
        stick = f"if=none,id=stick,file={self.seed},format=raw"
        arguments = [
            *("-M", "virt", "-cpu", "cortex-a76", "-smp", "2", "-m", "1024", "-accel", "tcg,thread=multi"),
            *("-kernel", folder / "kernel8.img", "-initrd", folder / "initramfs8", "-append", command_line),
            *("-drive", f"if=none,id=card,file={self.card},format=raw", "-device", "virtio-blk-pci,drive=card"),
            *("-netdev", f"user,id=cable,restrict=on,{doors}"),
            *("-device", "virtio-net-pci,netdev=cable,romfile=", "-device", "virtio-rng-pci"),
            *(("-drive", stick, "-device", "virtio-blk-pci,drive=stick") if self.seed else ()),
            *("-display", "none", "-monitor", "none", "-no-reboot"),
            *("-chardev", f"file,id=line,path={self.console},append=on", "-serial", "chardev:line"),
        ]
        with open(self.console.with_name("qemu.log"), "ab") as log:
            self.process = subprocess.Popen(
                ["qemu-system-aarch64", *map(str, arguments)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def cut_power(self) -> None:
        """Pull the plug: whatever the board has not yet written is lost."""
        self.check_on()
        self.stop()

    def wait_until_off(self, timeout_s: float) -> None:
        """Until the board has switched itself off or wants to start anew, which the firmware does with `power_on`."""
        assert self.process is not None
        try:
            assert self.process.wait(timeout_s) == 0, self.console.with_name("qemu.log").read_text()
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"the board is still on after {timeout_s} s: {self.said()[-2000:]}") from error

    def check_on(self) -> None:
        """An assertion that tells why when the board has gone off by itself."""
        assert self.process is not None
        qemu = self.console.with_name("qemu.log")
        assert self.process.poll() is None, f"the board is off: {qemu.read_text()} {self.said()[-3000:]}"

    def stop(self) -> None:
        """End the emulation, however it stands."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(30)

    def run(self, user: str, command: str, data: bytes = b"", timeout_s: float = 300.0) -> str:
        """What a command on the board answers to a person who has logged in; `data` is its standard input."""
        options = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "BatchMode=yes", "LogLevel=ERROR")
        login = [*(f"-o{option}" for option in options), "-i", self.ssh_key, "-p", self.ssh_port, f"{user}@127.0.0.1"]
        done = subprocess.run(
            ["ssh", *map(str, login), command], input=data, capture_output=True, timeout=timeout_s, check=False
        )
        said = done.stdout.decode(errors="replace")
        assert done.returncode == 0, said + done.stderr.decode(errors="replace")
        return said

    def said(self) -> str:
        """The console so far."""
        return self.console.read_text(errors="replace") if self.console.exists() else ""

    def read(self, path: str) -> bytes:
        """A file of the boot partition, while the board is off."""
        return self._mtools("mcopy", "-n", f"::/{path}", "-")

    def names(self, folder: str = "") -> list[str]:
        """What lies in a folder of the boot partition."""
        lines = self._mtools("mdir", "-b", f"::/{folder}").decode().splitlines()
        return sorted(line.removeprefix("::/").strip("/").removeprefix(f"{folder}/") for line in lines)

    def remove(self, *paths: str) -> None:
        """Delete files of the boot partition."""
        self._mtools("mdel", *(f"::/{path}" for path in paths))

    def make_folder(self, path: str) -> None:
        """A new folder on the boot partition."""
        self._mtools("mmd", f"::/{path}")

    def write(self, path: str, data: bytes) -> None:
        """A file onto the boot partition, while the board is off."""
        staged = self.card.with_name("staged")
        staged.write_bytes(data)
        self._mtools("mcopy", "-o", str(staged), f"::/{path}")

    def install_log(self) -> str:
        """What the installation wrote down, on the card or on the stick that it came from."""
        drive = str(self.seed) if self.seed else f"{self.card}@@{BOOT_OFFSET}"
        return self._mtools("mcopy", "-n", "::/espalier/install.log", "-", drive=drive).decode()

    def boot_bytes(self) -> bytes:
        """Every byte of the boot partition, those of deleted files included."""
        with self.card.open("rb") as file:
            file.seek(BOOT_OFFSET)
            return file.read(BOOT_BYTES)

    def in_root(self, *requests: str) -> str:
        """What debugfs says to requests about the root partition, while the board is off."""
        place = f"{self.card}?offset={BOOT_OFFSET + BOOT_BYTES}"
        said = ""
        for request in requests:
            done = subprocess.run(
                [find_tool("debugfs"), "-w", "-R", request, place], check=True, capture_output=True, text=True,
                timeout=60,
            )  # fmt: skip
            said += done.stdout
        return said

    def root_bytes(self) -> bytes:
        """Every byte of the root partition."""
        with self.card.open("rb") as file:
            file.seek(BOOT_OFFSET + BOOT_BYTES)
            return file.read()

    def _mtools(self, name: str, *arguments: str, drive: str = "") -> bytes:
        command = [name, "-i", drive or f"{self.card}@@{BOOT_OFFSET}", *arguments]
        environment = os.environ | {"MTOOLS_SKIP_CHECK": "1"}
        return subprocess.run(command, check=True, capture_output=True, timeout=120, env=environment).stdout
