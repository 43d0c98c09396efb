"""`-o kafka:...,spool=DIR` against a real broker that is away for a while, and with an agent that is killed."""

import collections
import pathlib
import signal
import subprocess
import tempfile
import time

from agent import Agent, Sender, by_seq, consume, create, messages
from broker import Broker, scratch
import check

SCRATCH = tempfile.TemporaryDirectory(prefix="dnstap-kafka-spool-")
ROOT = pathlib.Path(SCRATCH.name)
BROKER = Broker(scratch(ROOT, "broker"))


def runs(found):
    """Returns the records of each run by their numbers, in the order in which they were written."""
    numbers = collections.defaultdict(dict)
    for record in sorted(found, key=lambda record: (record.partition, record.offset)):
        numbers[record.headers["run"]].setdefault(int(record.headers["seq"]), record)
    return numbers


def an_outage_and_a_killed_agent_lose_nothing_and_nothing_comes_twice():
    place = scratch(ROOT, "killed")
    # One partition, so that the order of everything can be checked.
    create(BROKER, "killed", 1)
    output = f"kafka:{BROKER.address()}/killed,spool={place}/spool,spool-size=64M"
    made = messages(30_000)
    first = Agent(place, output, "--wait", name="first")
    sender = Sender(first.path)
    sender.send(made[:10_000])
    first.wait(lambda now: now["written"] == 10_000, "the first are acknowledged")
    BROKER.stop(signal.SIGKILL)
    sender.send(made[10_000:20_000])
    first.wait(lambda now: now["broker"]["spooled"] == 10_000, "the next are in the spool")
    first.end(signal.SIGKILL)
    second = Agent(place, output, "--wait", name="second")
    sender = Sender(second.path)
    sender.send(made[20_000:])
    second.wait(lambda now: now["broker"]["spooled"] == 20_000, "the last are in the spool, too")
    BROKER.start()
    second.wait(lambda now: now["broker"]["spooled"] == 0, "the spool is empty")
    sender.finish()
    account = second.end()
    check.equal((account["sent"], account["written"], account["queued"]), (10_000, 10_000, 0), "second account")
    check.equal(account["broker"]["replayed"], 10_000, "replayed")
    check.equal(account["broker"]["damaged_bytes"], 0, "damaged")
    found = sorted(consume(BROKER, "killed"), key=lambda record: record.offset)
    check.equal(len(found), 30_000, "records")
    assert [record.value for record in found] == made, "not the same bytes in the same order"
    check.equal([len(numbers) for numbers in runs(found).values()], [20_000, 10_000], "runs")


def an_agent_that_is_killed_under_load_repeats_only_what_was_under_way():
    place = scratch(ROOT, "load")
    create(BROKER, "load", 3)
    output = f"kafka:{BROKER.address()}/load,spool={place}/spool"
    known = []
    for number in range(4):
        agent = Agent(place, output, "--wait", name=f"load{number}")
        sender = Sender(agent.path)
        made = messages(20_000, first=number * 20_000)
        for at in range(0, len(made), 500):
            sender.send(made[at:at + 500])
        now = agent.wait(lambda now: now["broker"], "an answer")
        # What has been acknowledged, or is in the spool, cannot be lost any more.
        known.append(now["written"])
        agent.end(signal.SIGKILL)
    last = Agent(place, output, name="last")
    last.wait(lambda now: now["broker"]["spooled"] == 0, "the spool is empty", 120)
    last.end()
    found = consume(BROKER, "load")
    numbers = runs(found)
    twice = len(found) - sum(map(len, numbers.values()))
    order = sorted(numbers.values(), key=lambda run: run[0].time)
    check.equal(len(order), 4, "runs")
    made = messages(80_000)
    for number, (run, least) in enumerate(zip(order, known)):
        assert sorted(run) == list(range(len(run))), f"run {number} has a gap"
        assert len(run) >= least, f"run {number}: {len(run)} of {least}"
        for seq, record in run.items():
            assert record.value == made[number * 20_000 + seq], f"run {number}: {seq} is another message"
    print(f"{len(found)} records, {twice} of them twice, in 4 runs that were killed", flush=True)


def a_full_spool_drops_what_is_counted_and_seen_as_gaps():
    place = scratch(ROOT, "full")
    create(BROKER, "full", 1)
    BROKER.stop()
    agent = Agent(place, f"kafka:{BROKER.address()}/full,spool={place}/spool,spool-size=4M", "--queue-size", "256K")
    sender = Sender(agent.path)
    count = 60_000
    made = messages(count)
    for at in range(0, count, 100):
        sender.send(made[at:at + 100])
        # The disk is faster than this, so the queue fills only when the spool is full.
        time.sleep(0.002)
    sender.finish()
    status = agent.wait(lambda now: now["sent"] == count, "all are sent")
    assert "no room" in status["error"] and status["state"] == "waiting", status
    size = sum(file.stat().st_size for file in (place / "spool").iterdir())
    assert size <= 4 << 20, f"the spool has {size} bytes"
    BROKER.start()
    agent.wait(lambda now: now["queued"] == 0, "nothing is queued")
    account = agent.end()
    dropped = account["dropped"]["disk_full"]
    assert dropped > 0
    check.equal(account["written"], count - dropped, f"written: {account}")
    check.equal(sum(account["dropped"].values()), dropped, "other reasons")
    found = consume(BROKER, "full")
    numbers = [int(record.headers["seq"]) for record in sorted(found, key=lambda record: record.offset)]
    check.equal(numbers, sorted(set(numbers)), "order")
    check.equal((len(numbers), numbers[-1] + 1 - len(numbers)), (count - dropped, dropped), "gaps of seq")


def a_full_disk_is_waited_for_and_what_it_costs_is_counted():
    place = scratch(ROOT, "disk")
    spool = scratch(place, "spool")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3M", "tmpfs", spool], capture_output=True, text=True)
    if mounted.returncode != 0:
        raise check.Skip(f"no small disk can be mounted: {mounted.stderr.strip()}")
    try:
        create(BROKER, "disk", 1)
        BROKER.stop()
        agent = Agent(place, f"kafka:{BROKER.address()}/disk,spool={spool},spool-size=8M", "--queue-size", "256K")
        sender = Sender(agent.path)
        count = 60_000
        made = messages(count)
        for at in range(0, count, 100):
            sender.send(made[at:at + 100])
            time.sleep(0.002)
        status = agent.wait(lambda now: now["sent"] == count, "all are sent")
        assert "No space left" in status["error"], status
        BROKER.start()
        agent.wait(lambda now: now["queued"] == 0, "nothing is queued")
        # There is room again.
        sender.send(made[:100])
        agent.wait(lambda now: now["written"] + now["dropped"]["disk_full"] == count + 100, "the last are delivered")
        account = agent.end()
        found = sorted(consume(BROKER, "disk"), key=lambda record: record.offset)
        check.equal(len(found), account["written"], "records")
        numbers = [int(record.headers["seq"]) for record in found]
        check.equal(numbers, sorted(set(numbers)), "order")
        check.equal(numbers[-1] + 1 - len(numbers), account["dropped"]["disk_full"], "gaps of seq")
        check.equal(numbers[-100:], list(range(count, count + 100)), "the last")
    finally:
        subprocess.run(["umount", "--lazy", spool], check=True)


def a_record_of_the_far_future_has_the_time_of_the_agent_and_keeps_no_other():
    """A broker refuses such a time, and any sender can choose it."""
    place = scratch(ROOT, "future")
    spool = scratch(place, "spool")
    create(BROKER, "future", 2)
    agent = Agent(place, f"kafka:{BROKER.address()}/future,spool={spool}")
    count = 2_000
    before = time.time()
    Sender(agent.path).send(messages(1, since=4_102_444_800) + messages(count, first=1))
    agent.wait(lambda now: now["written"] == count + 1, "all are delivered")
    agent.end()
    found = by_seq(consume(BROKER, "future"))
    check.equal([int(record.headers["seq"]) for record in found], list(range(count + 1)), "numbers")
    first = found[0].time / 1000
    assert before - 1 <= first <= time.time() + 1, f"time {first}"


def what_is_left_at_the_end_stays_in_the_spool():
    place = scratch(ROOT, "left")
    create(BROKER, "left", 1)
    BROKER.stop()
    output = f"kafka:{BROKER.address()}/left,spool={place}/spool"
    agent = Agent(place, output, name="before")
    sender = Sender(agent.path)
    sender.send(messages(100))
    sender.finish()
    agent.wait(lambda now: now["broker"]["spooled"] == 100, "all are in the spool")
    account = agent.end()
    check.equal((account["written"], account["queued"], sum(account["dropped"].values())), (0, 100, 0), "account")
    assert "kept in the spool: 100" in agent.text(), agent.text()[-1000:]
    taken = Agent(place, output, name="one")
    taken.wait(lambda now: now["broker"]["spooled"] == 100, "it is open")
    other = Agent(place, output, name="other")
    check.equal(other.process.wait(20), 73, "exit code of another one")
    assert "folder of its own" in other.text(), other.text()
    BROKER.start()
    taken.wait(lambda now: now["broker"]["spooled"] == 0, "the spool is empty")
    taken.end()
    check.equal(len(consume(BROKER, "left")), 100, "records")


TESTS = [
    an_outage_and_a_killed_agent_lose_nothing_and_nothing_comes_twice,
    an_agent_that_is_killed_under_load_repeats_only_what_was_under_way,
    a_full_spool_drops_what_is_counted_and_seen_as_gaps,
    a_full_disk_is_waited_for_and_what_it_costs_is_counted,
    a_record_of_the_far_future_has_the_time_of_the_agent_and_keeps_no_other,
    what_is_left_at_the_end_stays_in_the_spool,
]

BROKER.serve(TESTS)
