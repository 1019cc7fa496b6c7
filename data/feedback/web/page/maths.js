// TeX to MathML for what answers commonly hold; null for anything else, which is then shown as it was written.
"use strict";

const MATHS = "http://www.w3.org/1998/Math/MathML";
const LETTERS = Object.fromEntries(("alpha α beta β gamma γ delta δ epsilon ϵ varepsilon ε zeta ζ eta η theta θ vartheta ϑ "
  + "iota ι kappa κ lambda λ mu μ nu ν xi ξ pi π rho ρ sigma σ tau τ upsilon υ phi φ varphi ϕ chi χ psi ψ omega ω "
  + "Gamma Γ Delta Δ Theta Θ Lambda Λ Xi Ξ Pi Π Sigma Σ Phi Φ Psi Ψ Omega Ω infty ∞ partial ∂ nabla ∇ ell ℓ hbar ℏ "
  + "emptyset ∅ Re ℜ Im ℑ aleph ℵ").split(" ").reduce((rows, word, i, all) => i % 2 ? rows : [...rows, [word, all[i + 1]]], []));
const SIGNS = Object.fromEntries(("cdot ⋅ times × div ÷ pm ± mp ∓ le ≤ leq ≤ ge ≥ geq ≥ ne ≠ neq ≠ approx ≈ equiv ≡ sim ∼ propto ∝ "
  + "to → rightarrow → leftarrow ← Rightarrow ⇒ Leftarrow ⇐ Leftrightarrow ⇔ iff ⇔ implies ⇒ mapsto ↦ in ∈ notin ∉ "
  + "subset ⊂ subseteq ⊆ cup ∪ cap ∩ setminus ∖ forall ∀ exists ∃ neg ¬ land ∧ lor ∨ wedge ∧ vee ∨ mid ∣ parallel ∥ "
  + "perp ⊥ ll ≪ gg ≫ ldots … cdots ⋯ dots … langle ⟨ rangle ⟩ lfloor ⌊ rfloor ⌋ lceil ⌈ rceil ⌉ circ ∘ star ⋆ ast ∗ "
  + "oplus ⊕ otimes ⊗ prime ′ degree ° quad \u2003 qquad \u2003\u2003").split(" ")
  .reduce((rows, word, i, all) => i % 2 ? rows : [...rows, [word, all[i + 1]]], []));
const LARGE = { sum: "∑", prod: "∏", int: "∫", oint: "∮", bigcup: "⋃", bigcap: "⋂" };
const NAMED = new Set("log ln exp sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh min max arg lim sup inf det dim ker gcd Pr".split(" "));
const ACCENTS = { hat: "^", bar: "¯", vec: "→", tilde: "~", dot: "˙", ddot: "¨", overline: "¯" };
const SPACES = { ",": "0.17em", ";": "0.28em", ":": "0.22em", "!": "-0.17em", " ": "0.25em" };

function mathml(name, ...children) {
  const made = document.createElementNS(MATHS, name);
  made.append(...children);
  return made;
}

class Unknown extends Error {}

function toMathML(source, display) {
  const tokens = source.match(/\\[a-zA-Z]+|\\[^a-zA-Z]|\d+(?:\.\d+)?|\s+|[\s\S]/gu) || [];
  let at = 0;
  const peek = () => { while (at < tokens.length && !tokens[at].trim()) at++; return tokens[at]; };

  function row(...ends) {
    const parts = [];
    for (let next = peek(); !ends.includes(next); next = peek()) {
      if (next === undefined) { if (ends.includes("")) break; throw new Unknown(); }
      parts.push(scripts(atom()));
    }
    return parts.length === 1 ? parts[0] : mathml("mrow", ...parts);
  }

  function scripts(inner) {
    let low = null, high = null;
    for (let next = peek(); next === "_" || next === "^" || next === "'"; next = peek()) {
      at++;
      if (next === "'") high = high ? mathml("mrow", high, mathml("mo", "′")) : mathml("mo", "′");
      else if (next === "_" && low === null) low = atom();
      else if (next === "^" && high === null) high = atom();
      else throw new Unknown();
    }
    const above = display && inner.localName === "mo" && Object.values(LARGE).includes(inner.textContent) && !"∫∮".includes(inner.textContent);
    if (low && high) return mathml(above ? "munderover" : "msubsup", inner, low, high);
    if (low) return mathml(above || (display && inner.textContent === "lim") ? "munder" : "msub", inner, low);
    if (high) return mathml(above ? "mover" : "msup", inner, high);
    return inner;
  }

  function words() {
    if (peek() !== "{") throw new Unknown();
    let depth = 0, text = "";
    do {
      const one = tokens[at++];
      if (one === undefined) throw new Unknown();
      if (one === "{") { if (depth++) text += one; } else if (one === "}") { if (--depth) text += one; } else text += one;
    } while (depth);
    return text;
  }

  function fence() {
    const sign = peek();
    at++;
    if (sign === undefined) throw new Unknown();
    if (sign === ".") return "";
    const known = { "\\{": "{", "\\}": "}", "\\|": "‖", "\\lbrace": "{", "\\rbrace": "}" }[sign] || SIGNS[sign.slice(1)];
    if (known) return known;
    if ("()[]|/<>".includes(sign)) return sign;
    throw new Unknown();
  }

  function command(name) {
    if (name in LETTERS) return mathml("mi", LETTERS[name]);
    if (name in SIGNS) return mathml("mo", SIGNS[name]);
    if (name in LARGE) return mathml("mo", LARGE[name]);
    if (NAMED.has(name)) return mathml("mi", name);
    if (["frac", "dfrac", "tfrac"].includes(name)) return mathml("mfrac", atom(), atom());
    if (name === "sqrt") {
      if (peek() !== "[") return mathml("msqrt", atom());
      at++;
      const degree = row("]");
      at++;
      return mathml("mroot", atom(), degree);
    }
    if (["text", "mathrm", "operatorname", "textbf", "mathit", "textit"].includes(name)) return mathml("mtext", words());
    if (["mathbf", "boldsymbol", "mathbb", "mathcal"].includes(name)) {
      const inner = mathml("mtext", words());
      inner.setAttribute("class", name === "mathbb" || name === "mathcal" ? "set" : "bold");
      return inner;
    }
    if (name in ACCENTS) {
      const made = mathml("mover", atom(), mathml("mo", ACCENTS[name]));
      made.setAttribute("accent", "true");
      return made;
    }
    if (name === "left") {
      const open = mathml("mo", fence());
      const inner = row("\\right");
      at++;
      return mathml("mrow", open, inner, mathml("mo", fence()));
    }
    throw new Unknown();
  }

  function atom() {
    const one = peek();
    at++;
    if (one === undefined || one === "}" || one === "&") throw new Unknown();
    if (one === "{") { const inner = row("}"); at++; return inner; }
    if (/^\d/.test(one)) return mathml("mn", one);
    if (/^\\[a-zA-Z]/.test(one)) return command(one.slice(1));
    if (one[0] === "\\") {
      const sign = one.slice(1);
      if (sign in SPACES) { const space = mathml("mspace"); space.setAttribute("width", SPACES[sign]); return space; }
      if ("{}%$#_&|".includes(sign)) return mathml("mo", sign === "|" ? "‖" : sign);
      throw new Unknown();
    }
    return /\p{L}/u.test(one) ? mathml("mi", one) : mathml("mo", one === "-" ? "−" : one);
  }

  try {
    const made = mathml("math", row(""));
    if (display) made.setAttribute("display", "block");
    made.setAttribute("aria-label", source.trim());
    return made;
  } catch (fault) {
    if (fault instanceof Unknown) return null;
    throw fault;
  }
}
