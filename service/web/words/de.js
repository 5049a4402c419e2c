export default {
  title: "Prüfstation", language: "Sprache", theme: "Hell oder dunkel", key: "API-Schlüssel", use_key: "Schlüssel benutzen",
  view_live: "Live", view_try: "Ausprobieren", view_api: "API",
  ready: "bereit", not_ready: "nicht bereit", no_connection: "keine Verbindung zum Dienst",
  OK: "OK", REVIEW: "PRÜFEN", NG: "NIO", NOT_INSPECTED: "NICHT GEPRÜFT",
  waiting: "Warten auf ein Teil", nothing_arrives: "Es kommt kein Teil an", last_part: "letztes Teil", ago: "vor {}",
  stale: "Das Urteil unten ist alt", part: "Teil", no_name: "Teil ohne Namen", score: "Wert",
  review_from: "prüfen ab", reject_from: "Ausschuss ab", image: "Bild", map: "Anomaliekarte auf dem Bild",
  show_map: "Karte", newest: "Die letzten 24 Teile", total: "Teile", latency: "Zeit", loupe: "Zum Vergrößern über das Bild fahren",
  share: "Anteil", since: "seit", no_image: "Das Bild dieses Teils ist nicht aufbewahrt", go_live: "Zurück zum neuesten Teil",
  ok_text: "Das Teil sieht aus wie die guten Teile.", review_text: "Ein Mensch soll dieses Teil ansehen.",
  ng_text: "Das Teil sieht nicht aus wie ein gutes.", none_text: "Niemand weiß, ob dieses Teil gut ist.",
};
