// A field that filters what is shown. What is typed stays in the page.

import { h } from "./elements.js";

/** `matches` says whether a thing has all words that were typed, anywhere in it; `changed` is called while typing. */
export function search(label, changed) {
  const input = h("input", { type: "search", placeholder: label, "aria-label": label, autocomplete: "off", spellcheck: "false", input: () => changed() });
  return {
    element: h("div", { class: "search" }, input),
    matches(thing) {
      const words = input.value.toLowerCase().split(/\s+/).filter((word) => word);
      if (words.length === 0) return true;
      const text = JSON.stringify(thing).toLowerCase();
      return words.every((word) => text.includes(word));
    },
  };
}
