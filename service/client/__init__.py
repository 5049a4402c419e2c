"""The clients for Python: `Client` and `AsyncClient`, each inspection an `Outcome`, each question an `Answer`."""

from service.client.client import AsyncClient, Client
from service.client.conversation import Outcome, read_outcome
from service.client.questions import Answer, Box, Page

__all__ = ["Answer", "AsyncClient", "Box", "Client", "Outcome", "Page", "read_outcome"]
