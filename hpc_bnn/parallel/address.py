"""The network address at which other nodes reach this one."""

import fcntl
import socket
import struct
from collections.abc import Iterable, Mapping

LOOPBACK = "127.0.0.1"
# Interfaces that a user or a site has named for the exchanges of ranks, also by their beginning.
NAMED = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
GET_ADDRESS = 0x8915  # SIOCGIFADDR of Linux
NAME_LENGTH = 15


def own_address(peers: Iterable[str], environment: Mapping[str, str]) -> str:
    """Return the address of this node on the way to ``peers``, hosts or addresses of other nodes.

    That of the interface that ``environment`` names, else of the one by which the system would
    send; nothing is sent. A host that only resolves to this node (127.0.1.1) says nothing.

    Raises
    ------
    OSError
        If none is found.
    """
    for variable in NAMED:
        for name in environment.get(variable, "").removeprefix("=").split(","):
            for address, interface in _interfaces():
                if name and interface.startswith(name):
                    return address
    peers = list(peers)
    for peer in peers:
        address = _on_the_way_to(peer)
        if address and not address.startswith("127."):
            return address
    raise OSError(
        f"{socket.gethostname()} has no way to {', '.join(peers[:3])}; name the network interface "
        f"of the nodes in {' or '.join(NAMED)}"
    )


def interface_of(address: str) -> str:
    """Return the name of the interface with an address of this node; empty where unknown."""
    return next((name for own, name in _interfaces() if own == address), "")


def _interfaces() -> Iterable[tuple[str, str]]:
    """Yield IPv4 address and name of each interface."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode()[:NAME_LENGTH])
            try:
                answer = fcntl.ioctl(any_socket.fileno(), GET_ADDRESS, request)
            except OSError:  # it has none
                continue
            yield socket.inet_ntoa(answer[20:24]), name


def _on_the_way_to(peer: str) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            any_socket.connect((peer, 9))
        except OSError:
            return ""
        return str(any_socket.getsockname()[0])
