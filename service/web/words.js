// The words on the screen, one file a language.
import en from "./words/en.js";
import de from "./words/de.js";

const WORDS = { en, de };
export const languages = { en: "English", de: "Deutsch" };

let chosen = localStorage.getItem("language") ?? navigator.language.slice(0, 2);

export const language = () => (WORDS[chosen] ? chosen : "en");
export const setLanguage = (code) => { chosen = code; localStorage.setItem("language", code); };
// `value` stands where the words have {}.
export const word = (name, value = "") => (WORDS[language()][name] ?? WORDS.en[name] ?? name).replace("{}", value);
