// Probabilities to an answer: what catdog/prediction.py does.

const DECIMALS = 1e6;

/** Returns {label, confidence, probabilities, error}; `shares`: a number for each of the contract's classes. */
export function decide(shares, contract) {
  const names = contract.class_names;
  const neither = names.indexOf("neither");
  let best = shares.indexOf(Math.max(...shares));
  let label = names[best];
  if (neither >= 0 && shares[neither] >= contract.neither_threshold) {
    best = neither;
    label = "neither";
  } else if (best === neither || shares[best] < contract.threshold) {
    label = "unsure";
  }
  const rounded = names.map((name, i) => [name, Math.round(shares[i] * DECIMALS) / DECIMALS]);
  return { label, confidence: rounded[best][1], probabilities: Object.fromEntries(rounded), error: null };
}
