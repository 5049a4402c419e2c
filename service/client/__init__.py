"""The clients for Python: `Client` and `AsyncClient`, each inspection an `Outcome`."""

from service.client.client import AsyncClient, Client, Outcome, read_outcome

__all__ = ["AsyncClient", "Client", "Outcome", "read_outcome"]
