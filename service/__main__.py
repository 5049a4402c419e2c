"""`python -m service`: serve with one uvicorn worker (scale by replicas); with a command, `service.commands`."""

from __future__ import annotations

import argparse
import resource
import socket
import sys
from contextlib import suppress
from functools import partial

import uvicorn

from service import logs, memory
from service.app import create_app
from service.flags import FlagError
from service.http.access import KeyFileError
from service.http.doors import Doors, most_connections
from service.http.draining import DrainingServer, Listener, Local
from service.http.protocol import SILENT_S, Connection
from service.http.tls import TlsFileError, protocol_factory, tls_context
from service.http.unix_socket import UnixSocket, UnixSocketError
from service.settings import NO_HOST, Settings, add_setting_flags, read_settings
from service.station.database import RecordsError
from service.station.monitoring import Metrics


def main() -> int:
    if len(sys.argv) > 1 and not sys.argv[1].startswith("-"):
        # The client's packages are not needed to serve.
        from service.commands import run

        return run(sys.argv[1:])
    try:
        settings = _settings()
    except FlagError as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        return 2
    memory.use_few_heaps()
    writer = logs.configure(settings.log_level, settings.log_format)
    # Every camera keeps a connection: shells allow 1024 files, and one too many takes records and golden images too.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        context = tls_context(settings)
        app = create_app(settings)
        sockets = _sockets(settings)
        rpc = _grpc(settings)
        unix = None if settings.unix_socket is None else UnixSocket(settings.unix_socket)
    except (KeyFileError, TlsFileError, UnixSocketError, RecordsError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    memory.keep_what_is_there()
    metrics: Metrics = app.state.metrics
    writer.on_lost = metrics.log_lines_lost.inc
    doors = Doors(most_connections(), lambda code: metrics.errors.labels(code).inc(), metrics.connections_evicted.inc)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=protocol_factory(doors, context),  # type: ignore[arg-type]
        ws="none",
        log_config=None,
        access_log=False,
        timeout_keep_alive=SILENT_S,
        timeout_graceful_shutdown=settings.drain_timeout_s,
        server_header=False,
        # Whom a proxy forwards is nothing that anybody here may claim: see service.http.access.
        proxy_headers=False,
    )
    listeners: list[Listener] = [] if unix is None else [Local(unix, partial(Connection, doors))]
    listeners += rpc
    server = DrainingServer(config, app.state.drain, settings.drain_grace_s, context, listeners)
    try:
        with suppress(KeyboardInterrupt):
            server.run(sockets)
    finally:
        if unix is not None:
            unix.remove()
    # What uvicorn.run does where the address is taken or the lifespan failed: its log has said why.
    return 0 if server.started else 3


def _sockets(settings: Settings) -> list[socket.socket] | None:
    """For `::` a socket that takes IPv4 too, which asyncio's does not; None: uvicorn makes its own."""
    if settings.host == NO_HOST:
        if settings.unix_socket is None:
            raise ValueError("INSPECT_HOST none listens on no TCP port: set INSPECT_UNIX_SOCKET, or an address")
        return []
    if settings.host != "::":
        return None
    return [socket.create_server(("::", settings.port), family=socket.AF_INET6, dualstack_ipv6=True)]


def _grpc(settings: Settings) -> list[Listener]:
    """Raises ValueError where the extra is not installed, or there is no address to listen at."""
    if not settings.grpc_port:
        return []
    if settings.host == NO_HOST:
        raise ValueError("INSPECT_GRPC_PORT needs an address: INSPECT_HOST none listens on no TCP port")
    try:
        # Only needed where it is asked for.
        from service.http.grpc_server import Grpc, credentials
    except ImportError as error:
        raise ValueError(f"INSPECT_GRPC_PORT needs the extra: pip install 'draem-inspect[grpc]' ({error})") from error
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return [
        Grpc(
            f"{host}:{settings.grpc_port}",
            credentials(settings),
            most_bytes=settings.max_upload_bytes,
            grace_s=settings.drain_timeout_s,
        )
    ]


def _settings() -> Settings:
    arguments = sys.argv[1:]
    # Serving does without the commands' packages.
    commands = _help_of_commands() if {"-h", "--help"} & set(arguments) else ""
    parser = argparse.ArgumentParser(
        prog="python -m service",
        usage="python -m service [flags]\n       python -m service COMMAND [flags]",
        description="Serve the recipes. Each flag is also an environment variable; a flag wins over its variable.",
        epilog=commands,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_setting_flags(parser)
    return read_settings(vars(parser.parse_args(arguments)))


def _help_of_commands() -> str:
    from service.commands import COMMANDS, summary

    lines = [f"  {name:<17} {summary(command)}" for name, command in COMMANDS.items()]
    return "\n".join(["commands, each with a --help of its own:", *lines])


if __name__ == "__main__":
    sys.exit(main())
