"""The lines that a terminal shows when the station is ready."""

from __future__ import annotations

from service.http.context import Station
from service.settings import NO_HOST


def banner(station: Station) -> str:
    """Where the station is and what to try: lines to copy, so no log lines."""
    store, settings = station.recipes, station.settings
    recipe = store.ready.get(settings.default_recipe or "") or next(iter(store.ready.values()))
    golden = recipe.bundle.manifest.golden
    image = recipe.bundle.file(golden[min(1, len(golden) - 1)].image)
    host = "localhost" if settings.host in {"127.0.0.1", "0.0.0.0", "::"} else settings.host  # noqa: S104
    host = f"[{host}]" if ":" in host else host
    address = f"{'http' if settings.tls_cert is None else 'https'}://{host}:{settings.port}{settings.root_path}"
    curl = f"curl -s -F image=@{image}"
    if settings.host == NO_HOST:
        return f"\n  {curl} --unix-socket {settings.unix_socket} 'http://localhost/inspect?recipe={recipe.name}'\n\n"
    return (
        f"\nopen {address} in a browser, or try:\n\n"
        f"  {curl} '{address}/inspect?recipe={recipe.name}'\n"
        f"  {curl} -H 'Accept: image/png' -o heatmap.png '{address}/inspect?recipe={recipe.name}'\n\n"
    )
