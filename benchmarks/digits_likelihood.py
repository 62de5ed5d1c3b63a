"""How likely do the VAEs of digits hold digits that they were not trained on?

ELBO and importance-weighted negative log-likelihood in nats a digit, 500 samples of z each, pixels binarised by chance
with their grey values as probabilities; through the exported graphs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks._machine import Bar, finish, model_facts, parser
from vaert.evaluate_digits import SAMPLES, evaluate_digits
from vaert.package import find_package

NAME = "digits_likelihood"
BARS = {("mnist-conv", 40): 93.0, ("mnist-mlp", 50): 97.0}  # (profile, latents) -> nats, with 9,000 training digits
REFERENCES = {"mnist-conv": 81.0, "mnist-mlp": 86.8}  # with the full 60,000


def main() -> int:
    """Measure and write."""
    options = parser(str(__doc__), NAME)
    options.set_defaults(model="mnist-conv")
    options.add_argument("--others", nargs="*", default=[], help="more models of digits: names or package folders")
    options.add_argument("--data", type=Path, required=True, help="folder of MNIST's IDX files")
    options.add_argument("--samples", type=int, default=SAMPLES, help=f"of z a digit (default: {SAMPLES})")
    options.add_argument("--threads", type=int, default=2, help="of the networks (default: 2)")
    given = options.parse_args()
    rows, bars = [], []
    for model in (given.model, *given.others):
        package = find_package(model)
        found = evaluate_digits(model, given.data, samples=given.samples, threads=given.threads)
        print("; ".join(found.lines()), flush=True)
        rows.append({"model": model_facts(package), "package_bytes": package.size, **_rounded(found.to_dict())})
        profile = package.manifest.profile
        if (bar := BARS.get((profile, found.latents))) is not None:
            wanted = f"at most {bar:g} nats (reference with 60,000 digits: {REFERENCES[profile]:g})"
            name = f"NLL, {profile} with {found.latents} latents, {found.digits} digits"
            bars.append(Bar(name, wanted, f"{found.nll:.2f}", found.nll <= bar))
    results = {"model": rows[0]["model"], "data": rows[0]["split"], "models": rows}
    return finish(NAME, given.out, results=results, bars=bars)


def _rounded(facts: dict[str, object]) -> dict[str, Any]:
    """Without what `model_facts` says already; three digits are more than the digits' number tells."""
    kept = {name: value for name, value in facts.items() if name not in ("model", "model_id")}
    return {name: round(value, 3) if isinstance(value, float) else value for name, value in kept.items()}


if __name__ == "__main__":
    raise SystemExit(main())
