"""The FastAPI application: routes, middleware, error handlers, and the station behind them."""

from __future__ import annotations

from functools import partial

from fastapi import Depends, FastAPI

from service.assembly.lifespan import lifespan
from service.assembly.parts import Parts
from service.assembly.trust import Trust
from service.http.addresses import Addresses
from service.http.docs import add_docs
from service.http.failures import Failures
from service.http.foundation import lay_foundation
from service.http.middleware import RequestContext
from service.http.parameters import refuse_unread
from service.http.rooms import add_rooms, is_route, prefix_of
from service.settings import Settings
from service.station.tracing import telemetry


def create_app(settings: Settings, parts: Parts = Parts()) -> FastAPI:  # noqa: B008 it is frozen
    """The service for `settings`; recipes load in the background once it runs. Raises KeyFileError,
    RecordsError, and OSError or ValueError for a bad key to trust. `app.state.drain` is how its server says goodbye.
    """
    prefix = prefix_of(settings)
    foundation = lay_foundation(settings)
    trust = Trust.of(settings)
    app = FastAPI(
        title="draem-inspect",
        version="0.1.0",
        lifespan=partial(lifespan, foundation, trust, parts),
        # `add_docs` serves both.
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        dependencies=[Depends(refuse_unread)],
        servers=[{"url": prefix}] if prefix else None,
        telemetry=telemetry(),
    )
    app.state.drain = foundation.drain
    app.state.metrics = foundation.metrics
    failures = Failures(foundation.metrics)
    add_rooms(app, failures.answer)
    add_docs(app, prefix)
    app.add_middleware(
        RequestContext, metrics=foundation.metrics, drain=foundation.drain, body_limit=settings.max_upload_bytes
    )
    app.add_middleware(Addresses, prefix=prefix, is_route=partial(is_route, app))
    failures.handle_in(app)
    return app
