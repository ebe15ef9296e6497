"""Asks a Celery worker for results, and again after the node of both was killed. No arguments: see celery_tasks.py."""

import sys

from celery import chain, group
from celery.exceptions import TimeoutError
from celery_tasks import add, app, fails, succeeds_at_third


def say(line):
    print(line, flush=True)


assert add.delay(2, 3).get(timeout=20) == 5
say("result 5")
sums = group(add.s(number, number) for number in range(50)).apply_async().get(timeout=20)
assert sums == [2 * number for number in range(50)], sums
say("group of 50")
assert chain(add.s(1, 2), add.s(4), add.s(5)).apply_async().get(timeout=20) == 12
say("chain")
say(succeeds_at_third.delay().get(timeout=20))
try:
    fails.delay().get(timeout=20)
except ValueError as error:
    say("failed %s" % error)
assert app.control.ping(timeout=2), "no worker heard the broadcast"
say("ping")

say("kill 1")
assert sys.stdin.readline() == "done\n"
# Results of this backend wait in an exclusive queue, which was the node's: the first one may be lost with it, and is asked for again.
for attempt in range(10):
    try:
        if add.delay(20, 22).get(timeout=5) == 42:
            say("result 42")
            break
    except TimeoutError:
        continue
