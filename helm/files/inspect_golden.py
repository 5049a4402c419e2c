"""What `helm test` runs: every recipe inspects its first golden image, over the network, as a camera would."""

import os
import sys

import httpx2

from service.client import Client

url = sys.argv[1]
key = os.environ.get("INSPECT_API_KEY")
headers = {"X-API-Key": key} if key else {}
# Neither goes through a proxy that the environment names.
with httpx2.Client(base_url=url, headers=headers, trust_env=False) as http, Client(url, api_key=key) as camera:
    recipes = [reply["recipe"] for reply in http.get("/recipes").raise_for_status().json()]
    if not recipes:
        sys.exit(f"{url} has no recipe")
    for recipe in recipes:
        image = http.get(f"/recipes/{recipe}/golden/0.png").raise_for_status().content
        outcome = camera.inspect(image, recipe=recipe)
        sys.stdout.write(f"{recipe}: {outcome.verdict} {outcome.score} {outcome.detail}\n")
        if outcome.verdict == "NOT_INSPECTED":
            sys.exit(1)
