export default {
  // Überall
  title: "Prüfstation", language: "Sprache", theme: "Hell oder dunkel", key: "API-Schlüssel", use_key: "Schlüssel benutzen", skip: "Zum Inhalt",
  views: "Ansichten", view_live: "Live", view_review: "Nachprüfen", view_recipes: "Rezepte", view_history: "Verlauf", view_quality: "Qualität",
  view_system: "System", view_try: "Ausprobieren", view_api: "API",
  ready: "bereit", not_ready: "nicht bereit", no_connection: "keine Verbindung zum Dienst", shift: "Schicht {}",
  OK: "OK", REVIEW: "PRÜFEN", NG: "NIO", NOT_INSPECTED: "NICHT GEPRÜFT", good: "Gutes Teil", defect: "Fehler",
  ok_text: "Das Teil sieht aus wie die guten Teile.", review_text: "Ein Mensch soll dieses Teil ansehen.",
  ng_text: "Das Teil sieht nicht aus wie ein gutes.", none_text: "Niemand weiß, ob dieses Teil gut ist.",
  part: "Teil", camera: "Kamera", recipe: "Rezept", lot: "Los", time: "Zeit", verdict: "Urteil", score: "Wert", size: "Bildgröße",
  regions: "Stellen", backend: "Rechenwerk", latency: "Dauer", identity: "Prüfung", version: "Version", version_short: "v{}",
  all: "alle", yes: "ja", no: "nein", cancel: "Abbrechen", apply: "Übernehmen", reset: "Zurücksetzen", working: "Einen Moment …", more: "Weitere",
  no_name: "Teil ohne Namen", nothing_found: "Kein Teil gefunden.", limits: "Grenzen",
  review_from: "Prüfen ab", reject_from: "Ausschuss ab",
  image: "Bild", map: "Anomaliekarte auf dem Bild", show_map: "Karte", loupe: "Zum Vergrößern über das Bild fahren", no_image: "Das Bild dieses Teils ist nicht aufbewahrt.",
  // Live
  waiting: "Warten auf ein Teil", nothing_arrives: "Es kommt kein Teil an", last_part: "letztes Teil", ago: "vor {}",
  newest: "Die letzten 24 Teile", total: "Teile", since: "seit", go_live: "Zurück zum neuesten Teil", to_review: "Nachzuprüfen",
  // Nachprüfen
  waiting_for_review: "{} Teile warten auf die Nachprüfung", nothing_to_review: "Kein Teil wartet auf die Nachprüfung.", confirms: "bestätigt das Urteil", overrules: "hebt das Urteil auf",
  decides: "entscheidet", skip_part: "Überspringen", defect_type: "Art des Fehlers", other_type: "Andere Art", note: "Notiz", tools: "Fehler markieren",
  tool_box: "Rahmen", tool_brush: "Pinsel", tool_erase: "Radierer", undo: "Rückgängig", last_review: "Nachprüfung",
  review_keys: "G gut · D Fehler · → überspringen · 1–9 Art · B Rahmen · P Pinsel · E Radierer · Z rückgängig · M Karte. Auf dem Bild: Pfeiltasten bewegen, Eingabe beginnt und beendet.",
  mark_help: "Bild des Teils. Pfeiltasten bewegen das Kreuz, Eingabe beginnt und beendet einen Rahmen oder Strich.",
  // Verlauf
  after: "Von", before: "Bis vor", reviewed: "Nachgeprüft", search: "Suchen", save_csv: "Als CSV sichern", save_zip: "Bilder, Karten und Masken sichern (ZIP)", open: "wartet",
  review_this: "Dieses Teil nachprüfen", reviews: "Nachprüfungen", no_reviews: "Niemand hat dieses Teil angesehen.", boxes: "{} Rahmen", with_mask: "mit Maske",
  // Rezepte
  no_recipes: "Es gibt noch kein Rezept: ein Paket in den Ordner der Rezepte legen.", default: "Vorgabe", why: "Im Dienst, weil", checked: "Referenzbilder geprüft",
  false_rejects: "Gute Teile im Ausschuss", escapes: "Durchgelassene Fehler", of: "{} von {} (95 %: {})", defects_none: "keine Fehler", defects_simulated: "gezeichnete Fehler", defects_labelled: "markierte Fehler",
  recipe_unfit: "Dieses Rezept ist untauglich und prüft nichts", serves_unfit: "Dieses Rezept ist im Dienst, obwohl es untauglich ist", recipe_blind: "Dieses Rezept ist blind: durchgelassen hat es {} von {} ({}).", newer_not_active: "Neuer und nicht aktiv: {}",
  versions: "Versionen", in_service: "im Dienst", newer: "neuer", shadow: "Schatten", report: "Bericht", activate: "Aktivieren", try_shadow: "Als Schatten mitlaufen", end_shadow: "Schatten beenden",
  compare: "Vergleichen", comparing: "Vergleich auf aufgezeichneten Bildern …", rollback: "Zurück zur vorigen", verify: "Nachrechnen", make_default: "Zur Vorgabe machen", activate_question: "Ab jetzt Version {} von {} benutzen? Zuerst wird sie auf ihren Referenzbildern nachgerechnet.",
  rollback_question: "Wieder die Version von {} benutzen, die vorher im Dienst war?",
  thresholds: "Schwellen", scores: "Aufgezeichnete Werte", limits_own: "Es gelten die Schwellen der Version.", limits_changed: "Geändert {} von {}", reset_limits: "Zurück zu denen der Version",
  reset_question: "Wieder die Schwellen der Version von {} benutzen?", apply_question: "Ab jetzt: prüfen ab {}, Ausschuss ab {} für {}. Die Änderung übersteht Neustarts.",
  what_if_of: "Was {} aufgezeichnete Teile der Version {} wären:", now: "Jetzt", then: "Dann", difference: "Unterschied", passed: "OK", to_look_at: "Zu prüfen", rejected: "Ausschuss",
  escapes_of: "Durchgelassen, von {} bestätigten Fehlern", rejects_of: "Ausschuss, von {} bestätigten guten Teilen", not_reviewed: "nicht nachgeprüft", reviewed_good: "als gut bestätigt", reviewed_defect: "als Fehler bestätigt",
  // Qualität
  by: "Nach", by_hour: "Stunde", by_camera: "Kamera", by_recipe: "Rezept", period: "Zeitraum", hours_8: "8 Stunden", hours_24: "24 Stunden", days_7: "7 Tage", days_30: "30 Tage",
  rate_of: "Anteil {}", mean_of: "{}, Mittel", brightness: "Helligkeit", sharpness: "Schärfe", inside: "Innerhalb der Grenzen; Mittel {}", outside: "Außerhalb der Grenzen: {}", scores_of: "{} Werte", figures: "Alle Zahlen",
  // System
  health: "Zustand", no_troubles: "Nichts ist eingeschränkt.", failing: "{}: {} Fehlschläge nacheinander", requested_backend: "Verlangtes Rechenwerk", queue: "Bilder in der Schlange", you_are: "Angemeldet",
  records: "Aufzeichnung", folder: "Ordner", parts_recorded: "Teile", images_kept: "Bilder", of_budget: "{} von {}", disk_free: "Platz auf der Platte", to_write: "Noch zu schreiben", chain: "Kette", no_records: "Es wird nichts aufgezeichnet.",
  per_image: "Zeit für ein Bild", model: "Modell", counters: "Zähler", unknown_recipe: "unbekanntes Rezept", reset_counters_question: "{} wieder von 0 an zählen?",
  // Ausprobieren
  drop_here: "Bild hierher ziehen", drop_kinds: "oder drücken, um eines zu wählen · JPEG, PNG, BMP, WebP, TIFF", examples: "Kein Bild zur Hand? Eines vom Rezept selbst:", example: "Beispiel {}",
  masked: "dunkel, wo Anomalien nicht zählen",
};
