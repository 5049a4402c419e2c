"""The routes of the records: what was inspected before, its images, and what people said of it."""

from __future__ import annotations

from service.http.records import images, inspections, report, reviews

ROUTERS = tuple(room.router for room in (inspections, images, reviews, report))
