"""No way out: the only network is a sandbox's own loopback."""

import secrets
import socket
from pathlib import Path

import pytest

from sandbox.session import Session
from tests.runtime.escape.probes import inside, outside, outside_once, pid_of

NO_WAY = ("ENETUNREACH", "EADDRNOTAVAIL", "EHOSTUNREACH")
METADATA = ("169.254.169.254", "169.254.170.2", "100.100.100.200")


@pytest.mark.attack("G01")
@pytest.mark.parametrize("address", ["8.8.8.8", "10.0.0.1", "192.168.0.1", "169.254.1.1", "100.64.0.1"])
@pytest.mark.parametrize("type", ["SOCK_STREAM", "SOCK_DGRAM"])
async def test_no_address_is_reached(onlooker: Session, address: str, type: str) -> None:
    probe = f"with socket.socket(socket.AF_INET, socket.{type}) as sock: sock.connect(({address!r}, 80))"
    assert await inside(onlooker, probe) in NO_WAY


@pytest.mark.attack("G02")
@pytest.mark.parametrize("address", METADATA)
async def test_no_cloud_tells_it_who_we_are(onlooker: Session, address: str) -> None:
    probe = f"socket.create_connection(({address!r}, 80), 5).close()"
    assert await inside(onlooker, probe) in NO_WAY


@pytest.mark.attack("G02", "G01")
@pytest.mark.parametrize("address", ["2001:4860:4860::8888", "fd00:ec2::254", "fe80::1%lo", "ff02::1"])
async def test_no_address_of_version_six_is_reached(onlooker: Session, address: str) -> None:
    probe = f"""
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"x", ({address!r}, 53))
    """
    assert await inside(onlooker, probe) in NO_WAY


@pytest.mark.attack("G05")
@pytest.mark.parametrize("address", ["172.17.0.1", "172.17.0.2", "172.18.0.1", "10.88.0.1"])
async def test_no_container_and_no_bridge_is_reached(onlooker: Session, address: str) -> None:
    probe = f"socket.create_connection(({address!r}, 2375), 5).close()"
    assert await inside(onlooker, probe) in NO_WAY


@pytest.mark.attack("G01", "G03")
async def test_broadcast_and_multicast_go_nowhere(onlooker: Session) -> None:
    probe = """
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            for address in ("255.255.255.255", "224.0.0.251", "239.255.255.250"):
                try:
                    sock.sendto(b"x", (address, 5353))
                    return "sent to " + address
                except OSError as error:
                    assert error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH)
    """
    assert await inside(onlooker, probe) == "done"


@pytest.mark.attack("G04")
async def test_the_hosts_own_ports_are_not_there(onlooker: Session) -> None:
    with socket.create_server(("0.0.0.0", 0)) as server:
        probe = f"socket.create_connection(('127.0.0.1', {server.getsockname()[1]}), 5).close()"
        assert outside(probe) == "done"
        assert await inside(onlooker, probe) == "ECONNREFUSED"


@pytest.mark.attack("G04")
@pytest.mark.parametrize("name", ["host.docker.internal", "gateway.docker.internal", "host.containers.internal"])
async def test_no_name_leads_to_the_host(onlooker: Session, name: str) -> None:
    probe = f"""
        try:
            return str(socket.getaddrinfo({name!r}, 80))
        except socket.gaierror:
            return "unknown"
    """
    assert await inside(onlooker, probe) == "unknown"


@pytest.mark.attack("F04")
async def test_the_hosts_abstract_sockets_are_not_there(onlooker: Session) -> None:
    name = f"\0canary-{secrets.token_hex(8)}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(name)
        server.listen()
        probe = f"with socket.socket(socket.AF_UNIX) as sock: sock.connect({name!r})"
        assert outside(probe) == "done"
        assert await inside(onlooker, probe) == "ECONNREFUSED"


@pytest.mark.attack("G06")
async def test_no_servant_of_the_host_answers(onlooker: Session, tmp_path: Path) -> None:
    probe = """
        answered = []
        for path in PATHS:
            with contextlib.suppress(OSError):
                with socket.socket(socket.AF_UNIX) as sock:
                    sock.connect(path)
                    answered.append(path)
        return " ".join(answered)
    """
    known = ["/run/docker.sock", "/var/run/docker.sock", "/run/containerd/containerd.sock", "/run/podman/podman.sock"]
    known += ["/run/dbus/system_bus_socket", "/run/systemd/private", "/run/systemd/journal/socket", "/tmp/.X11-unix/X0"]
    known += ["/run/user/0/bus", "/run/crio/crio.sock", "/dev/log", "\0/tmp/.X11-unix/X0", "\0/containerd-shim"]
    with socket.socket(socket.AF_UNIX) as server:
        path = str(tmp_path / "docker.sock")
        server.bind(path)
        server.listen()
        assert outside(probe.replace("PATHS", repr([path]))) == path
        assert await inside(onlooker, probe.replace("PATHS", repr([*known, path]))) == "done"


@pytest.mark.attack("G01")
async def test_its_only_interface_is_its_loopback(onlooker: Session) -> None:
    probe = "return ' '.join(sorted(name for _, name in socket.if_nameindex()))"
    devices = "return ' '.join(line.split(':')[0].strip() for line in open('/proc/self/net/dev').readlines()[2:])"
    assert await inside(onlooker, devices) == "lo"
    assert await inside(onlooker, probe) in ("lo", "EINVAL")


@pytest.mark.attack("G01")
@pytest.mark.needs_wall("processes that the host can look at")
async def test_the_host_sees_no_interface_and_no_route(session: Session) -> None:
    directory = Path(f"/proc/{await pid_of(session)}/net")
    assert [line.split(":")[0].strip() for line in (directory / "dev").read_text().splitlines()[2:]] == ["lo"]
    assert (directory / "route").read_text().splitlines()[1:] == []


@pytest.mark.attack("G10")
async def test_a_socket_cannot_be_bound_to_another_interface(onlooker: Session) -> None:
    probe = """
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
    """
    assert await inside(onlooker, probe) in ("ENODEV", "EPERM", "ENOPROTOOPT")
    assert outside_once(probe.replace("eth0", "lo")) == "done"


@pytest.mark.attack("G10")
@pytest.mark.needs_wall("settings of a process that the host's kernel decides")
async def test_a_packet_cannot_be_forged(onlooker: Session) -> None:
    probe = """
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.SOL_IP, 19, 1)  # IP_TRANSPARENT
    """
    assert outside_once(probe) == "done"
    assert await inside(onlooker, probe) in ("EPERM", "ENOPROTOOPT")


@pytest.mark.attack("G03")
async def test_names_are_not_resolved_and_nobody_waits_for_it(onlooker: Session) -> None:
    probe = """
        try:
            return str(socket.getaddrinfo("example.com", 80))
        except socket.gaierror:
            return "unknown"
    """
    assert await inside(onlooker, probe, timeout=4.0) == "unknown"


@pytest.mark.attack("G03")
@pytest.mark.parametrize("resolver", ["8.8.8.8", "1.1.1.1", "127.0.0.53", "127.0.0.11"])
async def test_no_resolver_takes_a_question(onlooker: Session, resolver: str) -> None:
    probe = f"""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect(({resolver!r}, 53))
            sock.send(bytes.fromhex("000101000001000000000000076578616d706c6503636f6d0000010001"))
            sock.settimeout(5)
            sock.recv(1)
    """
    assert await inside(onlooker, probe) in (*NO_WAY, "ECONNREFUSED")


@pytest.mark.attack("G07")
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
async def test_its_own_loopback_works(onlooker: Session, address: str) -> None:
    probe = f"""
        family = socket.AF_INET6 if ":" in {address!r} else socket.AF_INET
        with socket.create_server(({address!r}, 0), family=family) as server:
            socket.create_connection(server.getsockname()[:2]).close()
    """
    assert await inside(onlooker, probe) == "done"
