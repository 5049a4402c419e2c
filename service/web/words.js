// The words on the screen, one file a language, and how the language writes times and figures.
import en from "./words/en.js";
import de from "./words/de.js";

const WORDS = { en, de };
export const languages = { en: "English", de: "Deutsch" };

let chosen = localStorage.getItem("language") ?? navigator.language.slice(0, 2);

export const language = () => (WORDS[chosen] ? chosen : "en");
export const setLanguage = (code) => { chosen = code; localStorage.setItem("language", code); };
// The values stand where the words have {}, in order.
export function word(name, ...values) {
  let at = 0;
  return (WORDS[language()][name] ?? name).replaceAll("{}", () => values[at++] ?? "");
}

// `seconds` since 1970.
export const time = (seconds) => new Date(1000 * seconds).toLocaleString(language(), { dateStyle: "medium", timeStyle: "medium", hourCycle: "h23" });
// The day is left out where it is today.
export function moment(seconds) {
  const when = new Date(1000 * seconds);
  return when.toDateString() === new Date().toDateString() ? when.toLocaleTimeString(language(), { timeStyle: "medium", hourCycle: "h23" }) : time(seconds);
}
export const clock = (when) => new Date(when).toLocaleTimeString(language(), { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
export const percent = (share, digits = 1) => `${(100 * share).toLocaleString(language(), { maximumFractionDigits: digits, minimumFractionDigits: digits })}\u00a0%`;
export const count = (number) => number.toLocaleString(language());
export const figure = (number, digits = 3) => number.toLocaleString(language(), { maximumFractionDigits: digits, minimumFractionDigits: digits, useGrouping: false });

export function bytes(number) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let step = 0;
  for (; number >= 1000 && step < units.length - 1; step += 1) number /= 1000;
  return `${number.toLocaleString(language(), { maximumFractionDigits: step ? 1 : 0 })} ${units[step]}`;
}

export function spoken(seconds) {
  if (seconds < 90) return `${Math.max(0, Math.round(seconds))} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${Math.round(seconds / 3600)} h`;
}
