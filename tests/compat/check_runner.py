"""What the check scripts of this folder have in common: they are run as programs, and print what came of each check."""

import json

CHECKS = {}


def check(function):
    CHECKS[function.__name__] = function
    return function


def says(expected, function):
    """The function must raise, and say what to write instead."""
    try:
        function()
    except Exception as error:
        assert "What to do: " in str(error) and expected in str(error), str(error)
        return error
    raise AssertionError("nothing was raised")


def raises(error, function):
    try:
        function()
    except error as raised:
        return raised
    raise AssertionError(f"{error} was not raised")


def run_checks():
    """Run them in their order; prints {check: "ok" or what was raised} as JSON."""
    print("RESULTS " + json.dumps({name: _outcome(function) for name, function in CHECKS.items()}))


def _outcome(function):
    try:
        function()
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    return "ok"
