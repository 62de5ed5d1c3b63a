"""One backend's checks in a process of their own, so that a crash or a hang in a native library ends nothing else.

    python -m vaert.runtime.doctor_worker < request.json

A request is {"engine": [name, module, factory, gpu], "checks": [names], "packages": [folders]}. Each check is announced
and answered by a line of JSON on standard output; whatever native libraries print there goes to standard error instead.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections.abc import Mapping
from typing import Any, TextIO

from vaert.runtime.doctor_report import FAULT, described

UNAVAILABLE = "unavailable"  # the answer's status where the backend cannot be made here


def main() -> None:
    """Answer one request."""
    request = json.load(sys.stdin)
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        _say(answers, {"start": "start"})
        _work(request, answers)
        answers.flush()
        # Native libraries may crash while the interpreter ends; every answer has been given, so skip that.
        os._exit(0)


def _work(request: Mapping[str, Any], answers: TextIO) -> None:
    from vaert.runtime.backends.selection import Engine
    from vaert.runtime.doctor_checks import CHECKS, Patient

    engine = Engine(*request["engine"])
    _say(answers, {"start": "made"})
    started = time.monotonic()
    try:
        if reason := engine.missing():
            _answer(answers, "made", UNAVAILABLE, reason, started)
            return
        patient = Patient(engine.make(), tuple(request["packages"]))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever it was is what the doctor has to say
        _answer(answers, "made", FAULT, described(error), started)
        return
    _answer(answers, "made", "OK", f"{engine.factory} in {time.monotonic() - started:.2f} s", started)
    for name in request["checks"]:
        _say(answers, {"start": name})
        started = time.monotonic()
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                found = CHECKS[name](patient)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - as above
            _answer(answers, name, FAULT, described(error), started)
            continue
        told = [" ".join(str(warning.message).split()) for warning in caught]
        text = f"{found.text} (warned: {'; '.join(told)})" if told else found.text
        _answer(answers, name, found.status, text, started, found.facts)


def _answer(
    answers: TextIO, name: str, status: str, text: str, started: float, facts: Mapping[str, Any] | None = None
) -> None:
    seconds = time.monotonic() - started
    _say(answers, {"name": name, "status": status, "text": text, "facts": dict(facts or {}), "seconds": seconds})


def _say(answers: TextIO, message: Mapping[str, Any]) -> None:
    answers.write(json.dumps(message) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
