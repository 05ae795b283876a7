"""An SSH connection to a machine whose host key is known, without a password, and what its refusals mean."""

import asyncio
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

import asyncssh

from edgekd.devices._held import Cut
from edgekd.errors import ConfigError, DeviceUnreachable

CONNECT_TIMEOUT_S: Final = 20.0
LOGIN_TIMEOUT_S: Final = 30.0
KNOWN_HOSTS: Final = ("~/.ssh/known_hosts", "~/.ssh/known_hosts2", "/etc/ssh/ssh_known_hosts")

_NAME: Final = re.compile(r"[A-Za-z0-9_.:%][A-Za-z0-9_.:%-]*")
_USER: Final = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.@+$-]*")


CUT: Final[tuple[type[Exception], ...]] = (
    asyncssh.DisconnectError,
    asyncssh.ChannelOpenError,
    asyncssh.SFTPConnectionLost,
    asyncssh.SFTPNoConnection,
    asyncio.IncompleteReadError,
    ConnectionError,
    TimeoutError,
    Cut,
)
"""What asyncssh raises when a line is cut in the middle of something."""
FAILED: Final[tuple[type[Exception], ...]] = (*CUT, asyncssh.Error)
"""The same, and whatever else it raises."""


@dataclass(frozen=True)
class Place:
    """A machine, and the Python to use there."""

    host: str
    user: str = ""
    port: int = 0
    """0: what ~/.ssh/config says, or 22."""
    python: str = ""
    """"" where it is looked for."""

    @staticmethod
    def of(address: str) -> "Place":
        """The place of "//user@host:port?python=/opt/python3"; all but the host may be left out.

        Raises:
            ConfigError: it is no such address.
        """
        wanted = f"ssh:{address!r} is not an address"
        try:
            split = urlsplit("ssh:" + (address if address.startswith("//") else "//" + address))
            host, user, port = split.hostname or "", unquote(split.username or ""), split.port or 0
            options = dict(parse_qsl(split.query, strict_parsing=True)) if split.query else {}
        except ValueError as error:
            raise ConfigError(wanted, hint=EXAMPLE) from error
        python = options.pop("python", "")
        named = _NAME.fullmatch(host) and (not user or _USER.fullmatch(user)) and split.password is None
        if (
            not address.isprintable()
            or not named
            or options
            or split.path not in {"", "/"}
            or split.fragment
            or "\0" in python
        ):
            raise ConfigError(wanted, hint=EXAMPLE)
        return Place(host, user, port, python)

    def __str__(self) -> str:
        return f"{self.user}@{self.host}" if self.user else self.host

    @property
    def address(self) -> str:
        """As a user writes it."""
        return f"ssh://{self}:{self.port}" if self.port else f"ssh://{self}"

    def command(self, what: str = "") -> str:
        """The command that does something there by hand, or logs in."""
        port = ["-p", str(self.port)] if self.port else []
        return shlex.join(["ssh", *port, str(self), *([what] if what else [])])


EXAMPLE: Final = "ssh://user@host, ssh://user@host:2222 or ssh://user@host?python=/opt/python/bin/python3"


async def connect(place: Place, keepalive_s: float) -> asyncssh.SSHClientConnection:
    """A connection, by an agent's keys or key files, as ~/.ssh/config says.

    Raises:
        DeviceUnreachable: its host key is not known or is another one, it takes none of the keys, or the user's SSH
            files cannot be read.
        Cut: nothing answers.
    """
    options, known = _read_configuration(place, keepalive_s)
    try:
        return await _connect(place, options, known)
    except asyncssh.HostKeyNotVerifiable as error:
        raise _unverified(place, options, known) from error
    except asyncssh.PermissionDenied as error:
        hint = f"make `{place.command()}` log in without a password: ssh-copy-id, or ssh-add where the key has one"
        raise DeviceUnreachable(f"{place} takes none of your keys", hint=hint) from error
    except asyncssh.KeyExchangeFailed as error:
        raise DeviceUnreachable(f"{place}: {_line_of(error)}", hint="its SSH server is too old, or too new") from error
    except (OSError, asyncssh.Error) as error:
        raise Cut(_line_of(error) or type(error).__name__) from error


def _read_configuration(
    place: Place, keepalive_s: float
) -> tuple[asyncssh.SSHClientConnectionOptions, asyncssh.SSHKnownHosts]:
    """What the user's SSH files say of a place.

    Raises:
        DeviceUnreachable: one of them cannot be read.
    """
    try:
        options = asyncssh.SSHClientConnectionOptions(
            config=(),  # the user's
            host=place.host,
            port=place.port or (),
            username=place.user or (),
            preferred_auth="publickey",  # a prompt would wait for somebody who is not there
            connect_timeout=CONNECT_TIMEOUT_S,
            login_timeout=LOGIN_TIMEOUT_S,
            keepalive_interval=keepalive_s,  # a line that is silent for four of them is cut
        )
        return options, asyncssh.read_known_hosts(_known_hosts_files(options))
    except (OSError, ValueError, asyncssh.Error) as error:
        message = f"your SSH configuration cannot be used: {_line_of(error)}"
        raise DeviceUnreachable(message, hint="see ~/.ssh/config, ~/.ssh/known_hosts and the keys there") from error


async def _connect(
    place: Place, options: asyncssh.SSHClientConnectionOptions, known: asyncssh.SSHKnownHosts
) -> asyncssh.SSHClientConnection:
    try:
        return await asyncssh.connect(place.host, options=options, known_hosts=known)
    except (asyncssh.ConnectionLost, asyncssh.KeyExchangeFailed, ConnectionResetError) as error:
        if "timeout" in str(error):
            raise
        # a server that has no key of the kinds that are known hangs up; asked for any kind, it shows the one it has
        return await asyncssh.connect(place.host, options=options, known_hosts=known, server_host_key_algs="default")


def _known_hosts_files(options: asyncssh.SSHClientConnectionOptions) -> list[str]:
    """What ~/.ssh/config names, or the usual ones; `UserKnownHostsFile none` does not mean that every key is good."""
    named = options.known_hosts
    usual = [Path(name).expanduser() for name in KNOWN_HOSTS]
    files = [Path(str(name)).expanduser() for name in named] if isinstance(named, list) and named else usual
    return [str(file) for file in files if file.is_file()]


def _unverified(
    place: Place, options: asyncssh.SSHClientConnectionOptions, known: asyncssh.SSHKnownHosts
) -> DeviceUnreachable:
    port = options.port if options.port != 22 else None
    keys, authorities, *_ = asyncssh.match_known_hosts(known, options.host_key_alias or options.host, "", port)
    if not keys and not authorities:
        return DeviceUnreachable(
            f"the host key of {place} is not known",
            hint=f"log in once by hand, and compare the key that it shows: {place.command()}",
        )
    entry = shlex.quote(f"[{options.host}]:{port}" if port else options.host)
    return DeviceUnreachable(
        f"the host key of {place} is not the one in known_hosts: it was set up anew, or somebody stands in between",
        hint=f"if you know why: ssh-keygen -R {entry}, then {place.command()}, and compare the key that it shows",
    )


def _line_of(error: Exception) -> str:
    """The first line of a message."""
    return (str(error).splitlines() or [""])[0]
