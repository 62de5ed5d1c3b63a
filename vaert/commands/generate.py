"""`vaert generate`: pictures that a VAE of digits holds."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from vaert.commands.files import check_target, write_output
from vaert.commands.options import EngineOptions, engine_options
from vaert.commands.pictures import lossless_format, read_grey
from vaert.commands.report import say, show_json
from vaert.errors import ImageError

if TYPE_CHECKING:  # numpy loads on first use
    import numpy as np
    from numpy.typing import NDArray

    from vaert.runtime.digit_vae import DigitVAE

DEFAULT_MODEL = "mnist-conv"
COUNT, MANIFOLD_STEPS, INTERPOLATE_STEPS = 64, 20, 10
MAX_COUNT, MAX_STEPS = 10_000, 200
SAMPLES, MANIFOLD, INTERPOLATE = "samples of the prior", "manifold", "interpolation"


@dataclass(frozen=True)
class _Options:
    """Options of `vaert generate`."""

    count: int | None
    manifold: bool
    interpolate: tuple[str, str] | None
    steps: int | None
    seed: int | None
    model: str
    threads: int | None
    backend: str
    verbose: bool
    force: bool
    quiet: bool
    as_json: bool

    @property
    def drawn(self) -> str:
        """What to draw; a usage error if the options do not agree on it."""
        chosen = {"-n": self.count is not None, "--manifold": self.manifold, "--interpolate": bool(self.interpolate)}
        given = [name for name, is_given in chosen.items() if is_given]
        if len(given) > 1:
            raise click.UsageError(f"{' and '.join(given)} exclude each other: give one of {', '.join(chosen)}.")
        kind = MANIFOLD if self.manifold else INTERPOLATE if self.interpolate else SAMPLES
        if kind != SAMPLES and self.seed is not None:
            raise click.UsageError(f"--seed has no use with {given[0]}, which draws nothing at random: leave it out.")
        if kind == SAMPLES and self.steps is not None:
            raise click.UsageError("--steps belongs to --manifold and --interpolate: give -n for a number of samples.")
        return kind


@click.command()
@click.argument("target", metavar="OUT")
@click.option("-n", "count", type=click.IntRange(1, MAX_COUNT), help=f"Number of samples.  [default: {COUNT}]")
@click.option("--manifold", is_flag=True, help="Draw the whole plane of a model with two latents instead.")
@click.option("--interpolate", nargs=2, metavar="A B", help="Morph from the digit in image A to that in B instead.")
@click.option(
    "--steps",
    type=click.IntRange(2, MAX_STEPS),
    help=f"Digits along a side (--manifold, {MANIFOLD_STEPS}) or the way (--interpolate, {INTERPOLATE_STEPS}).",
)
@click.option("--seed", type=click.IntRange(min=0), help="Seed of the samples.  [default: 0]")
@click.option("--model", metavar="NAME|DIR", default=DEFAULT_MODEL, show_default=True, help="A model of digits.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: all cores]")
@engine_options
@click.option("--force", "-f", is_flag=True, help="Replace an existing OUT.")
@click.option("--quiet", "-q", is_flag=True, help="No report line on stderr.")
@click.option("--json", "as_json", is_flag=True, help="Report as JSON on stdout (stderr if OUT is -).")
def generate(target: str, **given: Any) -> None:
    """Draw digits of a model into the image OUT (`-` is stdout): samples of its prior, for one seed always the same.

    At most one of -n, --manifold and --interpolate, which follows a great circle between the posterior means.
    """
    options = _Options(**given)
    drawn = options.drawn
    ending = lossless_format(target)
    check_target(target, force=options.force)
    digits = [read_grey(path, what="a digit") for path in options.interpolate or ()]
    from vaert.image import encode_image
    from vaert.package import find_package
    from vaert.runtime.digit_vae import DigitVAE

    package = find_package(options.model)
    engine = EngineOptions(options.backend, options.threads, options.verbose)
    vae = DigitVAE(package, backend=engine.open(package))
    count, picture = _draw(vae, options, digits)
    write_output(target, encode_image(picture, format=ending), force=options.force)
    facts = {
        "output": target,
        "drawn": drawn,
        "digits": count,
        "seed": (options.seed or 0) if drawn == SAMPLES else None,
        "width": picture.shape[1],
        "height": picture.shape[0],
        "model": vae.package.manifest.name,
        "model_id": f"{vae.package.manifest.model_id:016x}",
    }
    if options.as_json:
        show_json(facts, output=target)
    elif not options.quiet:
        seeded = f", seed {facts['seed']}" if drawn == SAMPLES else ""
        say(f"{facts['model']} -> {target}: {count} digit{'s' * (count > 1)}, {drawn}{seeded}")


def _draw(vae: "DigitVAE", options: _Options, digits: "list[NDArray[np.uint8]]") -> "tuple[int, NDArray[np.uint8]]":
    """Number of digits and the picture of them; `digits` are the ends of an interpolation."""
    from vaert.runtime.digit_vae import mosaic

    if options.manifold:
        drawn = vae.manifold(options.steps or MANIFOLD_STEPS)
        return len(drawn), mosaic(drawn, gap=0)
    if options.interpolate:
        for path, digit in zip(options.interpolate, digits, strict=True):
            if digit.shape != (vae.height, vae.width):
                raise ImageError(
                    f"{path} has {digit.shape[1]}x{digit.shape[0]} pixels, expected a digit of "
                    f"{vae.width}x{vae.height}: crop or scale it first"
                )
        drawn = vae.interpolate(*digits, steps=options.steps or INTERPOLATE_STEPS)
        return len(drawn), mosaic(drawn, columns=len(drawn))
    drawn = vae.sample(options.count or COUNT, seed=options.seed or 0)
    return len(drawn), mosaic(drawn)
