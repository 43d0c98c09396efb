"""Runs tests and reports as libtest does, so that `cargo xtask test` can count them."""

import sys
import time
import traceback


class Skip(Exception):
    """Says why a test cannot run here."""


def run(tests):
    """Runs functions in order. Ends the process: 0 if none failed, 1 if one did."""
    begun = time.monotonic()
    failures, passed, skipped = [], 0, 0
    for test in tests:
        name = test.__name__
        try:
            test()
        except Skip as why:
            skipped += 1
            print(f"SKIP {name}: {why}", flush=True)
            print(f"test {name} ... ignored", flush=True)
        except Exception:
            failures.append((name, traceback.format_exc()))
            print(f"test {name} ... FAILED", flush=True)
        else:
            passed += 1
            print(f"test {name} ... ok", flush=True)
    if failures:
        print("\nfailures:\n")
        for name, why in failures:
            print(f"---- {name} ----\n{why}")
        print("failures:")
        for name, _why in failures:
            print(f"    {name}")
    print(
        f"\ntest result: {'FAILED' if failures else 'ok'}. {passed} passed; {len(failures)} failed; {skipped} ignored; "
        f"0 measured; 0 filtered out; finished in {time.monotonic() - begun:.2f}s",
        flush=True,
    )
    sys.exit(1 if failures else 0)


def equal(found, wanted, what):
    """Fails with the first differences of two values, lists or dictionaries."""
    if found == wanted:
        return
    if isinstance(found, list) and isinstance(wanted, list):
        for index, (one, other) in enumerate(zip(found, wanted)):
            if one != other:
                raise AssertionError(f"{what}: row {index}: found {one!r}, wanted {other!r}")
        raise AssertionError(f"{what}: found {len(found)} rows, wanted {len(wanted)}")
    if isinstance(found, dict) and isinstance(wanted, dict):
        keys = [key for key in {**wanted, **found} if found.get(key) != wanted.get(key)]
        found, wanted = ({key: given.get(key) for key in keys[:5]} for given in (found, wanted))
    raise AssertionError(f"{what}: found {found!r}, wanted {wanted!r}")
