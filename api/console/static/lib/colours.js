// Colours for things on a canvas, in the page's light or dark.

// Okabe and Ito's eight, which colour-blind readers tell apart; grey stands for what is not known.
export const KINDS = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#b8a500", "#7f7f7f"];

/** The page's own colour of that name, as a canvas needs it. */
export function named(name) {
  const probe = document.createElement("span");
  probe.style.color = `var(--${name})`;
  document.body.append(probe);
  const colour = getComputedStyle(probe).color;
  probe.remove();
  return colour;
}

const RAMP = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]]; // viridis

/** A colour for a share of 0 to 1. */
export function ramp(share) {
  const place = Math.min(Math.max(share, 0), 1) * (RAMP.length - 1);
  const i = Math.min(Math.floor(place), RAMP.length - 2);
  const [a, b] = [RAMP[i], RAMP[i + 1]];
  return `rgb(${a.map((v, c) => Math.round(v + (b[c] - v) * (place - i))).join(",")})`;
}
