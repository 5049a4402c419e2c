// The service's own sentences in the language of the page, where they have a code or a form of their own. Names, figures
// and whatever else is in them stay; a sentence that is not known stays as the service said it.
import { time, word } from "./words.js";

const MEASURED = /(-?[\d.]+(?:e[-+]?\d+)?) is (below|above) (\S+)$/;
const FORMS = [
  [/^recipes are being loaded and checked$/, () => word("said_loading")],
  [/^draining\b/, () => word("said_draining")],
  [/^recipe '(.+)' has no model yet/, (name) => word("said_collecting", name)],
  [/^no recipe in /, () => word("no_recipes")],
  [/^chosen (\S+) by (.+)$/, (when, by) => word("said_chosen", time(new Date(when) / 1000), person(by))],
  [/^written down by hand$/, () => word("said_by_hand")],
  [/^records are lost: (.*)$/, (why) => word("said_records_lost", why)],
  [/^records wait to be written: (.*)$/, (why) => word("said_records_wait", why)],
  [/^another service writes to (.*): each shows/, (folder) => word("said_shared_records", folder)],
  [/^images wait to be written: (.*)$/, (why) => word("said_images_wait", why)],
  [/^images are lost: (.*)$/, (why) => word("said_images_lost", why)],
  [/^the backend failed on the last batch of (.*)$/, (names) => word("said_backend_failed", names)],
  [/^the device has been at one batch for (\d+) s/, (seconds) => word("said_device_hangs", seconds)],
  [/^(\d+) held-out good photos cannot show a false-reject rate of ([\d.]+): at least (\d+) are needed; [^;]*$/, (photos, rate, needed) => word("said_few_photos", photos, rate, needed)],
  [/^(\d+) of (\d+) (rendered|labelled) defects pass as OK \((\d+%), allowed are (\d+%)\)$/, (escapes, all, kind, ...shares) => word("said_unfit", escapes, all, word(`defects_${kind === "rendered" ? "simulated" : kind}`), ...shares)],
  [/^\S+ is unfit: (.*): train again, or set (\S+)$/, (why, setting) => word("said_train_again", sentence(why), setting)],
  [/^(\d+) runs never came back/, (runs) => word("said_runs_lost", runs)],
];
const PERSONS = { "this machine": "by_this_machine", anybody: "by_anybody", "the first start, as the newest": "by_first_start", "being the only recipe": "by_being_alone" };

// Who did something: the name of a key, or what the service calls those without one.
export function person(name) {
  // A person by name, at a place that has the key.
  const [, who, place] = /^(.+) \((.+)\)$/.exec(name) ?? [];
  if (who) return `${who} (${person(place)})`;
  return name in PERSONS ? word(PERSONS[name]) : name;
}

const ABOUTS = [
  [/^the version of (.+)$/, (name) => word("about_version", name)],
  [/^the limits of (.+)\/(.+)$/, (name, version) => word("about_limits", name, version)],
  [/^the default recipe$/, () => word("about_default")],
  [/^that (.+) collects photos$/, (name) => word("about_collecting", name)],
];

// What a decision is about.
export const about = (text) => spoken(ABOUTS, text);

// What a word is that the language has not: the service may be newer than the page.
const unknown = (said) => /^(code|fault)_/.test(said);

export function title(code, otherwise = code) {
  const said = word(`code_${code}`);
  return unknown(said) ? otherwise : said;
}

export function fault(text) {
  const name = word(`fault_${text.split(":")[0].replaceAll(" ", "_")}`);
  if (unknown(name)) return text;
  const measured = MEASURED.exec(text);
  return measured ? `${name} (${measured[1]} ${word(measured[2])} ${measured[3]})` : name;
}

export const sentence = (text) => spoken(FORMS, text);

function spoken(forms, text) {
  for (const [form, said] of forms) {
    const found = form.exec(text);
    if (found) return said(...found.slice(1));
  }
  return text;
}
