"""`python -m service`: serve with one uvicorn worker (scale by replicas); with a command, `service.commands`."""

from __future__ import annotations

import argparse
import resource
import sys

from service import logs, memory
from service.flags import FlagError
from service.serving import UNUSABLE, prepare
from service.settings import Settings, add_setting_flags, read_settings


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
        serving = prepare(settings)
    except UNUSABLE as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    memory.keep_what_is_there()
    writer.on_lost = serving.metrics.log_lines_lost.inc
    return serving.run()


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
