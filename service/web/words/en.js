export default {
  // Everywhere
  title: "Inspection station", language: "Language", theme: "Light or dark", key: "API key", use_key: "Use this key", skip: "Skip to the content",
  views: "Views", view_live: "Live", view_review: "Review", view_recipes: "Recipes", view_history: "History", view_quality: "Quality",
  view_system: "System", view_try: "Try", view_api: "API",
  ready: "ready", not_ready: "not ready", no_connection: "no connection to the service", shift: "Shift {}",
  OK: "OK", REVIEW: "REVIEW", NG: "NG", NOT_INSPECTED: "NOT INSPECTED", good: "Good part", defect: "Defect",
  ok_text: "The part looks like the good parts.", review_text: "A person should look at this part.",
  ng_text: "The part does not look like a good one.", none_text: "Nobody knows whether this part is good.",
  part: "Part", camera: "Camera", recipe: "Recipe", lot: "Lot", time: "Time", verdict: "Verdict", score: "Score", size: "Image size",
  regions: "Regions", backend: "Backend", latency: "Latency", identity: "Inspection", version: "Version", version_short: "v{}",
  all: "all", yes: "yes", no: "no", cancel: "Cancel", apply: "Apply", reset: "Reset", working: "Working …", more: "More",
  no_name: "part without a name", nothing_found: "No part found.", limits: "Limits",
  review_from: "Review from", reject_from: "Reject from",
  image: "Image", map: "Anomaly map on the image", show_map: "Map", loupe: "Move over the image to enlarge it", no_image: "The image of this part is not kept.",
  // Live
  waiting: "Waiting for a part", nothing_arrives: "No part arrives", last_part: "last part", ago: "{} ago",
  newest: "Last 24 parts", total: "Parts", since: "since", go_live: "Back to the newest part", to_review: "To review",
  // Review
  waiting_for_review: "{} parts wait for review", nothing_to_review: "No part waits for review.", confirms: "confirms the verdict", overrules: "overrules the verdict",
  decides: "decides", skip_part: "Skip", defect_type: "Type of the defect", other_type: "Another type", note: "Note", tools: "Mark the defect",
  tool_box: "Box", tool_brush: "Brush", tool_erase: "Eraser", undo: "Undo", last_review: "Review",
  review_keys: "G good · D defect · → skip · 1–9 type · B box · P brush · E eraser · Z undo · M map. On the image: arrow keys move, Enter begins and ends.",
  mark_help: "Image of the part. Arrow keys move the cross, Enter begins and ends a box or a stroke.",
  // History
  after: "From", before: "Before", reviewed: "Reviewed", search: "Search", save_csv: "Save as CSV", save_zip: "Save images, maps and masks (ZIP)", open: "waits",
  review_this: "Review this part", reviews: "Reviews", no_reviews: "No person has looked at this part.", boxes: "{} boxes", with_mask: "with a mask",
  // Recipes
  no_recipes: "There is no recipe yet: put a bundle into the folder of recipes.", default: "default", why: "Serves because", checked: "Golden images checked",
  false_rejects: "Good parts rejected", escapes: "Defects that pass", of: "{} of {} (95 %: {})", defects_none: "no defects", defects_simulated: "rendered defects", defects_labelled: "labelled defects",
  recipe_unfit: "This recipe is unfit and inspects nothing", serves_unfit: "This recipe serves though it is unfit", recipe_blind: "This recipe is blind: it passed {} of {} {}.", newer_not_active: "Newer and not active: {}",
  versions: "Versions", in_service: "in service", newer: "newer", shadow: "Shadow", report: "Report", activate: "Activate", try_shadow: "Run as shadow", end_shadow: "End the shadow",
  compare: "Compare", comparing: "Comparing on recorded images …", rollback: "Roll back", verify: "Verify", make_default: "Make it the default", activate_question: "Serve version {} of {} from now on? It is checked on its golden images first.",
  rollback_question: "Serve the version of {} that served before?",
  thresholds: "Thresholds", scores: "Recorded scores", limits_own: "The thresholds are those of the version.", limits_changed: "Changed {} by {}", reset_limits: "Back to the version's own",
  reset_question: "Go back to the thresholds of the version of {}?", apply_question: "From now on: review from {}, reject from {} for {}. The change is kept over restarts.",
  what_if_of: "What {} recorded parts of version {} would be:", now: "Now", then: "Then", difference: "Difference", passed: "OK", to_look_at: "To review", rejected: "Rejected",
  escapes_of: "Escapes, of {} reviewed defects", rejects_of: "Rejects, of {} reviewed good parts", not_reviewed: "not reviewed", reviewed_good: "reviewed as good", reviewed_defect: "reviewed as defect",
  // Quality
  by: "By", by_hour: "hour", by_camera: "camera", by_recipe: "recipe", period: "Period", hours_8: "8 hours", hours_24: "24 hours", days_7: "7 days", days_30: "30 days",
  rate_of: "Share of {}", mean_of: "{}, mean", brightness: "Brightness", sharpness: "Sharpness", inside: "Within its limits; mean {}", outside: "Outside its limits: {}", scores_of: "{} scores", figures: "All figures",
  // System
  health: "Health", no_troubles: "Nothing is degraded.", failing: "{}: {} failures in a row", requested_backend: "Backend asked for", queue: "Images in the queue", you_are: "You are",
  records: "Records", folder: "Folder", parts_recorded: "Parts", images_kept: "Images", of_budget: "{} of {}", disk_free: "Disk free", to_write: "Waiting to be written", chain: "Chain", no_records: "No records are kept.",
  per_image: "Time for an image", model: "Model", counters: "Counters", unknown_recipe: "unknown recipe", reset_counters_question: "Begin to count {} again at 0?",
  // Try
  drop_here: "Drop an image here", drop_kinds: "or press to choose one · JPEG, PNG, BMP, WebP, TIFF", examples: "No image at hand? Try one of the recipe's own:", example: "Example {}",
  masked: "dark where anomalies do not count",
};
