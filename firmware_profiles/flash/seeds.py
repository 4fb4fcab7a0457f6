"""The two ways in which Raspberry Pi OS is told what to do at first boot: cloud-init's files, and firstrun.sh. Pure."""

import hashlib
import json
import re
import shlex

from device_runtime.wire.errors import UsageError
from firmware_profiles.flash.device import Device, Wifi

FOLDER = "espalier"
INSTALL = ("python3", "-I", f"/boot/firmware/{FOLDER}/install.py", "--start")
SEED_LABEL = "CIDATA"  # by which cloud-init's NoCloud finds it
SEED_MOUNT = "/run/espalier-seed"
FIRSTRUN_MARK = "# Written by espalier flash. Runs once, at first boot."
FIRSTRUN_BEFORE = f"{FOLDER}/firstrun-before.sh"
WIFI_SECRET = "wifi.nmconnection"
_ESCAPED = re.compile("[\x7f-\uffff]")


def user_data(device: Device, before: bytes) -> bytes:
    """cloud-init's user-data: ours alone, or after what a person set in Raspberry Pi Imager, which stays as it is.

    Raises UsageError when an option would set what the person has set already.
    """
    theirs = kept_user_data(before)
    if theirs is None:
        return b"#cloud-config\n" + to_json(_own_config(device, [list(INSTALL)]))
    if device.ssh_key:
        raise UsageError("this card has a user and settings of its own (user-data); leave out --ssh-key.")
    script = f"#!/bin/sh\nexec {' '.join(INSTALL)}\n"
    return b"#cloud-config-archive\n" + to_json(
        [{"content": theirs}, {"type": "text/x-shellscript", "content": script}]
    )


def kept_user_data(before: bytes) -> str | None:
    """What a person set: None for the image's own example, which is comments only, and for what an earlier preparation
    wrote, except for the person's part in it."""
    text = before.decode("utf-8", "replace")
    if text.startswith("#cloud-config-archive") and INSTALL[-2] in text:
        return str(json.loads(text.partition("\n")[2])[0]["content"])
    return text if is_set(before) and INSTALL[-2] not in text else None


def is_set(data: bytes) -> bool:
    """Whether a file has a line that is no comment."""
    return any(line.strip() and not line.lstrip().startswith(b"#") for line in data.splitlines())


def seed_user_data(device: Device) -> bytes:
    """user-data of a seed, whose file system is mounted for the installation only."""
    install = f"{SEED_MOUNT}/{FOLDER}/install.py"
    commands = [
        ["mkdir", "-p", SEED_MOUNT],
        ["mount", f"LABEL={SEED_LABEL}", SEED_MOUNT],
        ["python3", "-I", install, "--start"],
        ["umount", SEED_MOUNT],
    ]
    # Raspberry Pi OS has it; Debian's images need it from their archive, or made with it.
    packages = {"packages": ["python3-venv"]}
    return b"#cloud-config\n" + to_json({**_own_config(device, commands), **packages})


def _own_config(device: Device, commands: list[list[str]]) -> dict[str, object]:
    """JSON is YAML; singular `user` keeps the groups of the image's default user."""
    out: dict[str, object] = {"hostname": device.name, "manage_etc_hosts": True, "ssh_pwauth": False}
    if device.ssh_key:
        out["user"] = {
            "name": device.user,
            "lock_passwd": True,
            "sudo": "ALL=(ALL) NOPASSWD:ALL",  # there is no password to ask for
            "ssh_authorized_keys": [device.ssh_key],
        }
        commands = [["systemctl", "enable", "--now", "ssh"], *commands]
    return {**out, "runcmd": commands}


def network_config(wifi: Wifi, before: bytes) -> bytes:
    """netplan, version 2: cable by DHCP, and the wireless network.

    Raises UsageError when a person has set a network already.
    """
    if is_set(before) and not before.lstrip().startswith(b"{"):
        raise UsageError("this card has a network of its own (network-config); leave out --wifi.")
    wireless = {
        "dhcp4": True,
        "optional": True,
        "regulatory-domain": wifi.country,
        "access-points": {wifi.ssid: {"password": wifi_key(wifi)}},
    }
    cable = {"dhcp4": True, "optional": True}
    return to_json({"network": {"version": 2, "ethernets": {"eth0": cable}, "wifis": {"wlan0": wireless}}})


def connection_profile(wifi: Wifi) -> bytes:
    """The wireless network as NetworkManager keeps it (keyfile format), for images before cloud-init.

    A name with other than plain characters is written as its bytes, which the format allows: ; and \\ have a meaning.
    """
    plain = re.fullmatch(r"[A-Za-z0-9_.-]*[A-Za-z_-][A-Za-z0-9_.-]*", wifi.ssid)
    name = wifi.ssid if plain else "".join(f"{byte};" for byte in wifi.ssid.encode())
    lines = ["[connection]", "id=espalier", "type=wifi", "[wifi]", "mode=infrastructure", f"ssid={name}"]
    lines += ["[wifi-security]", "key-mgmt=wpa-psk", f"psk={wifi_key(wifi)}"]
    lines += ["[ipv4]", "method=auto", "[ipv6]", "method=auto", ""]
    return "\n".join(lines).encode()


def wifi_key(wifi: Wifi) -> str:
    """The pre-shared key of WPA2: PBKDF2 of the pass phrase with the network's name (IEEE 802.11-2020, annex J.4)."""
    return hashlib.pbkdf2_hmac("sha1", wifi.passphrase.encode(), wifi.ssid.encode(), 4096, 32).hex()


def firstrun(device: Device, theirs: bool) -> str:
    """The script for images before cloud-init; it undoes its own line in cmdline.txt whatever happens, and runs a
    person's own script first where there is one (kept as espalier/firstrun-before.sh)."""
    lines = [
        "#!/bin/bash",
        FIRSTRUN_MARK,
        "set +e",
        'here=$(cd "$(dirname "$0")" && pwd)',
        "sed -i 's| systemd.run[^ ]*||g; s| systemd.unit=kernel-command-line.target||' \"$here/cmdline.txt\"",
        f"echo {device.name} > /etc/hostname",
        f"sed -i 's/^127.0.1.1.*/127.0.1.1\\t{device.name}/' /etc/hosts",
    ]
    if device.wifi:
        lines += ["rfkill unblock wifi"]  # blocked until a country is set, which cmdline.txt does
    if theirs:
        lines += [f'bash "$here/{FIRSTRUN_BEFORE}"', f'rm -f "$here/{FIRSTRUN_BEFORE}"']
    if device.ssh_key:
        home = f"/home/{device.user}"
        lines += [
            f"useradd --create-home --shell /bin/bash --groups sudo,video {device.user}",
            f"usermod --append --groups gpio {device.user}",  # by itself: not every system has this group
            f"install -d -m 0700 -o {device.user} -g {device.user} {home}/.ssh",
            f"printf '%s\\n' {shlex.quote(device.ssh_key)} > {home}/.ssh/authorized_keys",
            f"chown {device.user}:{device.user} {home}/.ssh/authorized_keys",
            f"echo '{device.user} ALL=(ALL) NOPASSWD:ALL' > /etc/sudoers.d/010_espalier",
            "chmod 0440 /etc/sudoers.d/010_espalier",
            "systemctl enable ssh",
        ]
    return "\n".join([*lines, f'python3 -I "$here/{FOLDER}/install.py"', 'rm -f "$here/firstrun.sh"', "exit 0", ""])


def extend_cmdline(cmdline: bytes, arguments: list[str]) -> bytes:
    """The kernel's command line, one line, with `arguments` in place of older ones of the same purpose.

    Raises UsageError when it is not a single line of text.
    """
    try:
        lines = cmdline.decode("ascii").strip().splitlines()
    except UnicodeDecodeError as error:
        raise UsageError("cmdline.txt is not text; the image is damaged.") from error
    if len(lines) != 1:
        raise UsageError(f"cmdline.txt has {len(lines)} lines; it must have one, or the board does not boot.")
    ours = (
        "ds=nocloud",
        "systemd.run=",
        "systemd.run_success_action=",
        "systemd.unit=kernel-command-line",
        "cfg80211.",
    )
    kept = [word for word in lines[0].split() if not word.startswith(ours) and word not in arguments]
    return (" ".join([*kept, *arguments]) + "\n").encode()


def instance_id(device: Device) -> str:
    """New for every preparation: cloud-init acts again only when it differs. It says nothing of what was written."""
    return f"espalier-{device.name}-{device.flashed_s:x}"


def to_json(value: object) -> bytes:
    """JSON for people to read, which is YAML too: cloud-init and netplan read it as such.

    YAML's \\u means one character and knows no pairs of surrogates, so what lies beyond the basic plane stands as it
    is; what YAML would take for the end of a line, or for nothing printable, is escaped as in plain JSON.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False)
    return (_ESCAPED.sub(lambda m: f"\\u{ord(m[0]):04x}", text) + "\n").encode()
