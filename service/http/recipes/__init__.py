"""The routes of recipes: which there are, which version serves, and what came with a version."""

from __future__ import annotations

from service.http.recipes import changing, comparison, decisions, images, listing, versions

ROUTERS = tuple(room.router for room in (listing, changing, versions, comparison, images, decisions))
