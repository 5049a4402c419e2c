export default {
  title: "Inspection station", language: "Language", theme: "Light or dark", key: "API key", use_key: "Use this key",
  view_live: "Live", view_try: "Try", view_api: "API",
  ready: "ready", not_ready: "not ready", no_connection: "no connection to the service",
  OK: "OK", REVIEW: "REVIEW", NG: "NG", NOT_INSPECTED: "NOT INSPECTED",
  waiting: "Waiting for a part", nothing_arrives: "No part arrives", last_part: "last part", ago: "{} ago",
  stale: "The verdict below is old", part: "Part", no_name: "part without a name", score: "score",
  review_from: "review from", reject_from: "reject from", image: "Image", map: "Anomaly map on the image",
  show_map: "Map", newest: "Last 24 parts", total: "Parts", latency: "Time", loupe: "Move over the image to enlarge",
  share: "share", since: "since", no_image: "The image of this part is not kept", go_live: "Back to the newest part",
  ok_text: "The part looks like the good parts.", review_text: "A person should look at this part.",
  ng_text: "The part does not look like a good one.", none_text: "Nobody knows whether this part is good.",
};
